# SPDX-License-Identifier: MIT
"""The matrix's page in headless Chromium: filters, details, phones and desks, light and dark."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvmharness import resources
from kvmharness.matrix import html

from ..unit.matrix.samples import matrix


def _load_chromium() -> Any:
    top = resources.checkout_dir()
    assert top is not None
    path = top / "ci" / "chromium.py"
    spec = importlib.util.spec_from_file_location("kvmharness_ci_chromium", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


chromium = _load_chromium()

pytestmark = pytest.mark.skipif(
    chromium.find() is None, reason="no Chromium (Debian: apt-get install chromium)"
)

SHOWN = "[...document.querySelectorAll('.row:not(.head):not([hidden])')].map(row => row.id)"
DETAILS = "document.getElementById('details')"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(html.render(matrix()), encoding="utf-8")
    return path


@pytest.fixture
def browser(page: Path) -> Iterator[Any]:
    with chromium.Browser(1280, 800) as opened:
        opened.open(page)
        yield opened


def click(browser: Any, selector: str) -> None:
    browser.evaluate(f"document.querySelector({selector!r}).click()")


def test_what_changed_is_shown_first_and_the_rest_on_demand(browser: Any) -> None:
    assert browser.evaluate(SHOWN) == ["snp.source.unaligned", "snp.source.null"]
    click(browser, "#only")
    assert len(browser.evaluate(SHOWN)) == 5


def test_topics_and_search_narrow_it(browser: Any) -> None:
    click(browser, "#only")
    click(browser, "[data-topic='snp.state']")
    assert browser.evaluate(SHOWN) == ["snp.state.finish"]
    click(browser, "[data-topic='snp.state']")
    search = (
        "(() => { const s = document.getElementById('search'); s.value = {!r};"
        " s.dispatchEvent(new Event('input')) })()"
    )
    browser.evaluate(search.replace("{!r}", "'dcbcc2323c80'"))
    assert browser.evaluate(SHOWN) == ["snp.source.unaligned"]
    browser.evaluate(search.replace("{!r}", "'nobody has this'"))
    assert browser.evaluate(SHOWN) == []
    assert browser.evaluate("document.getElementById('nothing').hidden") is False


def test_a_cell_opens_its_write_back_log_and_ioctls(browser: Any) -> None:
    assert browser.evaluate(f"{DETAILS}.open") is False
    click(browser, "button[data-row='snp.source.null'][data-kernel='6.12.107-amd64']")
    assert browser.evaluate(f"{DETAILS}.open") is True
    text = browser.evaluate(f"{DETAILS}.innerText")
    assert "EIO; WARNING sev_gmem_post_populate" in text
    assert "WARNING: </script>" in text
    assert "NULL is refused <up front>" in text
    # Another kernel is a click away, and both have an address of their own.
    click(browser, ".tabs button:last-child")
    assert "EINVAL" in browser.evaluate(f"{DETAILS}.querySelector('.verdict').innerText")
    assert browser.evaluate("location.hash") == "#snp.source.null@7.3.4-amd64"
    click(browser, "#close")
    assert browser.evaluate(f"{DETAILS}.open") is False
    click(browser, "#only")
    click(browser, "button[data-row='snp.source.aligned']")
    text = browser.evaluate(f"{DETAILS}.innerText")
    assert "bytes left 0x4000 → 0x0" in text
    assert "KVM_MEMORY_ENCRYPT_OP" in text


def test_an_address_opens_its_cell(page: Path) -> None:
    with chromium.Browser(1280, 800) as browser:
        browser.open(page, "snp.source.unaligned@7.2.12-amd64")
        assert browser.evaluate(f"{DETAILS}.open") is True
        pressed = browser.evaluate("document.querySelector('.tabs [aria-pressed=true]').innerText")
        assert "7.2.12" in pressed


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 820, 1280])
def test_it_fits_and_is_legible(page: Path, width: int, dark: bool) -> None:
    with chromium.Browser(width, 800, dark=dark) as browser:
        browser.open(page)
        click(browser, "#only")
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        # Nothing is cut off inside a cell either.
        cells = "[...document.querySelectorAll('.cell button')]"
        assert browser.evaluate(f"{cells}.every(cell => cell.scrollWidth <= cell.clientWidth)")
        assert browser.evaluate(_CONTRAST) >= 4.5
        assert [url for url in browser.requests if not url.startswith("file:")] == []


#: The lowest contrast of a first cell's text against what is behind it (WCAG 2.1, 1.4.3).
_CONTRAST = """(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = rgb(getComputedStyle(e).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const light = color => {
    const [r, g, b] = color.slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return Math.min(...[...document.querySelectorAll(
    '.cell:not(.same) button > span, .row .id code, .row .id small, .facts, .emulated, .legend li'
  )].map(element => {
    const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }));
})()"""
