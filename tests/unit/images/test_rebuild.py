# SPDX-License-Identifier: MIT
"""The committed images are what their sources assemble to, and a difference does not go unseen."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kvmharness import resources

SCRIPT = Path(__file__).resolve().parents[3] / "ci" / "rebuild_images"
DEADLINE = 120  # seconds for one run, which needs well under one

pytestmark = pytest.mark.skipif(
    not SCRIPT.is_file(), reason="ci/rebuild_images is part of the checkout, not of the wheel"
)
needs_binutils = pytest.mark.skipif(
    not (shutil.which("as") and shutil.which("ld")),
    reason="needs as and ld; on Debian: apt-get install binutils",
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Give a copy of the committed directory that a test may change."""
    return Path(shutil.copytree(resources.images_dir() / "x86_64", tmp_path / "images"))


def rebuild(*arguments: str | Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": path} if path is not None else None
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


@needs_binutils
def test_the_committed_images_are_what_the_sources_say(images: Path) -> None:
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    done = rebuild("--check", "--images", images)
    assert (done.returncode, done.stderr) == (0, "")
    assert "images are what their sources assemble to" in done.stdout
    assert {path.name: path.read_bytes() for path in images.iterdir()} == before


@needs_binutils
def test_a_changed_source_is_noticed_and_named(images: Path) -> None:
    replace(images / "hello.S", '"hello from guest_memfd\\n"', '"hellO from guest_memfd\\n"')
    done = rebuild("--images", images)
    assert done.returncode == 1
    assert f"{images / 'hello.bin'}: differs from what hello.S assembles to" in done.stderr
    assert "(66 bytes committed, 66 built)" in done.stderr
    assert "ci/rebuild_images --update" in done.stderr
    assert "checksum" not in done.stderr


@needs_binutils
def test_a_changed_include_is_noticed_in_each_payload(images: Path) -> None:
    replace(images / "protocol.inc", "0x511", "0x512")
    done = rebuild("--images", images)
    assert done.returncode == 1
    named = {name for name in ("hello", "hello16", "checksum") if f"{name}.bin" in done.stderr}
    assert named == {"hello", "hello16", "checksum"}
    assert "spin.bin" not in done.stderr  # says nothing, so has no port


@needs_binutils
def test_a_changed_image_is_noticed_at_its_byte(images: Path) -> None:
    image = images / "pattern.bin"
    contents = bytearray(image.read_bytes())
    contents[7] ^= 0x10
    image.write_bytes(contents)
    done = rebuild("--images", images)
    assert done.returncode == 1
    assert f"{image}: differs from what pattern.S assembles to, first at byte 0x7 " in done.stderr
    assert "[pattern]" not in done.stderr  # the manifest still describes the right image


@needs_binutils
def test_a_lengthened_image_is_noticed(images: Path) -> None:
    with (images / "spin.bin").open("ab") as image:
        image.write(b"\0")
    done = rebuild("--images", images)
    assert done.returncode == 1
    assert "first at byte 0x2 (3 bytes committed, 2 built)" in done.stderr


@needs_binutils
def test_a_missing_image_is_noticed(images: Path) -> None:
    (images / "touch.bin").unlink()
    done = rebuild("--images", images)
    assert done.returncode == 1
    assert f"{images / 'touch.bin'}: missing" in done.stderr


@needs_binutils
def test_update_writes_what_check_accepts_and_nothing_else(images: Path) -> None:
    manifest = images / "manifest.toml"
    before = {path.name: path.read_bytes() for path in images.iterdir()}
    lines_before = manifest.read_text().splitlines()
    replace(images / "hello.S", "hello from guest_memfd", "hello from changed guest_memfd")
    replace(
        images / "manifest.toml",
        'console = "hello from guest',
        'console = "hello from changed guest',
    )

    updated = rebuild("--update", "--images", images)
    assert (updated.returncode, updated.stderr) == (0, "")
    assert rebuild("--check", "--images", images).returncode == 0

    changed = {path.name for path in images.iterdir() if path.read_bytes() != before.get(path.name)}
    assert changed == {"hello.S", "hello.bin", "manifest.toml"}
    pairs = zip(lines_before, manifest.read_text().splitlines(), strict=True)
    differing = [new.split(" = ")[0] for old, new in pairs if old != new]
    assert differing == ["sha256", "size", "console"]


@needs_binutils
def test_update_of_unchanged_sources_writes_nothing(images: Path) -> None:
    done = rebuild("--update", "--images", images)
    assert done.returncode == 0
    assert "wrote" not in done.stdout


@needs_binutils
@pytest.mark.parametrize(
    ("instruction", "complaint"),
    [
        ("frobnicate %rax", "no such instruction"),
        ("movaps %xmm0, %xmm1", "is not supported"),  # guests start without SSE
        (".data\n.quad 1\n.text", "no writable data"),
        (".fill 8192, 1, 0x90", "does not fit one page"),
    ],
)
def test_what_a_payload_must_not_hold_is_refused(
    images: Path, instruction: str, complaint: str
) -> None:
    with (images / "spin.S").open("a") as source:
        source.write(f"        {instruction}\n")
    done = rebuild("--update", "--images", images)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert rebuild("--images", images).returncode == 1


@needs_binutils
def test_an_entry_that_is_not_first_is_refused(images: Path) -> None:
    replace(images / "spin.S", "_start:", "        nop\n_start:")
    done = rebuild("--images", images)
    assert done.returncode == 1
    assert "_start is not the first byte" in done.stderr


@needs_binutils
def test_a_source_without_a_table_is_named(images: Path) -> None:
    shutil.copy(images / "spin.S", images / "whirl.S")
    done = rebuild("--images", images)
    assert done.returncode == 1
    assert f"{images / 'whirl.S'} has no table" in done.stderr


@needs_binutils
def test_an_image_without_a_source_is_named(images: Path) -> None:
    (images / "whirl.bin").write_bytes(b"\xeb\xfe")
    done = rebuild("--images", images)
    assert done.returncode == 1
    assert f"{images / 'whirl.bin'} has no source" in done.stderr


@needs_binutils
def test_a_table_without_a_source_is_named(images: Path) -> None:
    (images / "ticker.S").unlink()
    done = rebuild("--images", images)
    assert done.returncode == 1
    assert f"{images / 'ticker'}.S does not exist" in done.stderr


def test_without_binutils_nothing_could_be_checked(images: Path, tmp_path: Path) -> None:
    done = rebuild("--images", images, path=str(tmp_path))
    assert done.returncode == 4
    assert "as and ld not found" in done.stderr
    assert "apt-get install binutils" in done.stderr


def test_a_directory_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    done = rebuild("--images", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "is not a directory" in done.stderr
