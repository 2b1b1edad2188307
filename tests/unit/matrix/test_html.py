# SPDX-License-Identifier: MIT
"""The page by itself: nothing fetched, nothing that breaks out, everything in it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

from kvmharness.contract.rows import Contract
from kvmharness.matrix import explain, html
from kvmharness.matrix.model import Matrix

from .samples import cell, column, columns, matrix, promise


class Page(HTMLParser):
    """Collects elements, what they refer to, and the script that holds the data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""
        self._in_data = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_data = tag == "script" and dict(attrs).get("id") == "data"

    def handle_data(self, data: str) -> None:
        if self._in_data:
            self.data += data

    def handle_endtag(self, tag: str) -> None:
        self._in_data = False


def data() -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(Page(html.render(matrix())).data)
    return parsed


def test_nothing_is_fetched() -> None:
    text = html.render(matrix())
    page = Page(text)
    refers = [
        (tag, name, value)
        for tag, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "data", "poster", "action")
    ]
    # Links to commits, which a reader may follow, are all that leads anywhere.
    assert {(tag, name) for tag, name, _ in refers} <= {("a", "href")}
    assert all(value and value.startswith("https://git.kernel.org/linus/") for *_, value in refers)
    assert "link" not in {tag for tag, _ in page.elements}
    assert "url(" not in text
    assert "@import" not in text
    assert not re.search(r"\bfetch\(|XMLHttpRequest|import\(", text)


def test_every_scenario_and_kernel_has_its_cell() -> None:
    page = Page(html.render(matrix()))
    buttons = {
        (attributes["data-row"], attributes["data-kernel"])
        for tag, attributes in page.elements
        if tag == "button" and "data-row" in attributes
    }
    assert buttons == {(row.id, name) for row in matrix().rows for name in matrix().names}


def test_it_says_where_this_was_seen_and_that_it_is_emulated() -> None:
    text = html.render(matrix())
    assert "Emulated.</b> The kernels' own code" in text
    assert "not a hardware result" in text
    assert "2026-11-22" in text
    mixed = html.render(matrix([columns()[0], column("7.3.4", columns()[1].cells, "native")]))
    assert "Emulated (6.12.107).</b>" in mixed
    native = html.render(matrix([column("7.3.4", columns()[1].cells, "native")]))
    assert "Emulated" not in native


def test_what_a_kernel_says_cannot_end_the_script_or_an_element() -> None:
    text = html.render(matrix())
    assert "WARNING: </script>" not in text
    assert data()["scenarios"]["snp.source.null"]["cells"][0]["log"] == ["WARNING: </script>"]
    assert "NULL is refused &lt;up front&gt;" in text
    evil = {'a.b"<img src=x onerror=y>': cell("ok", log=["<b>@@DATA@@</b>"])}
    page = Page(html.render(matrix([column("7.3.4", evil)])))
    assert "img" not in {tag for tag, _ in page.elements}


def test_details_hold_write_back_log_and_ioctls() -> None:
    aligned = data()["scenarios"]["snp.source.aligned"]["cells"][0]
    assert aligned["steps"][0]["more"] == [
        "gpa 0x0 → 0x4000",
        "source 0x1000 → 0x5000",
        "bytes left 0x4000 → 0x0",
    ]
    assert aligned["trace"] == ["fd 5  KVM_MEMORY_ENCRYPT_OP = 0"]
    assert data()["scenarios"]["snp.source.mapped"]["cells"][0]["reason"] == "no such thing here"


def test_changes_are_marked_and_linked_to_their_commit() -> None:
    text = html.render(matrix())
    assert text.count('class="row changed"') == 2
    assert 'href="https://git.kernel.org/linus/dcbcc2323c80"' in text
    assert text.count('class="cell refused differs"') == 2


def test_each_of_several_commits_has_a_link() -> None:
    old, new = column("6.12.1", {"a.b": cell("ok")}), column("7.3.4", {"a.b": cell("EIO")})
    promises = [
        promise("a.b", "ok", end="7.0"),
        promise("a.b", "EIO", first="7.0", commit=("dcbcc2323c80", "2a62345b3052")),
    ]
    rows = explain.rows(Contract(promises), (old, new), {"a.b": ""})
    text = html.render(Matrix("snp", "2026-11-22T12:00:00Z", (old, new), tuple(rows)))
    for commit in ("dcbcc2323c80", "2a62345b3052"):
        assert f'href="https://git.kernel.org/linus/{commit}"' in text
