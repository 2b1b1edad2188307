# SPDX-License-Identifier: MIT
"""Payloads as the host sees them: loading, arguments, and both halves of the protocol agreeing."""

from __future__ import annotations

import mmap
import random
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from kvmharness import resources
from kvmharness.machine import payload
from kvmharness.machine.payload import ExitCase, Mode, PayloadError, ProtocolError, ReportReader

U64 = 2**64 - 1
ARGUMENT_REGISTERS = ["rdi", "rsi", "rdx", "rcx", "r8", "r9"]


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a copy of the payloads that a test may damage; payload.py reads this one."""
    shutil.copytree(resources.images_dir() / "x86_64", tmp_path / "x86_64")
    monkeypatch.setattr(resources, "images_dir", lambda: tmp_path)
    return tmp_path / "x86_64"


def source_constants(name: str) -> dict[str, int]:
    """Return the `.set` constants of a source file."""
    text = (resources.images_dir() / "x86_64" / name).read_text()
    return {
        match[1]: int(match[2], 0) for match in re.finditer(r"^\.set (\w+), +(\w+)", text, re.M)
    }


def random_page(seed: int) -> bytes:
    return random.Random(seed).randbytes(payload.PAGE_SIZE)


@pytest.mark.parametrize("name", payload.names())
def test_every_payload_loads_and_is_described(name: str) -> None:
    loaded = payload.load(name)
    assert loaded.description
    assert loaded.size == len(loaded.image) > 0
    assert loaded.entry == loaded.load_gpa
    assert loaded.size <= payload.PAGE_SIZE
    registers = [argument.register for argument in loaded.arguments]
    assert registers == ARGUMENT_REGISTERS[: len(registers)]
    if Mode.REAL in loaded.modes:
        assert loaded.modes == (Mode.REAL,)
        assert loaded.load_gpa + loaded.size <= 0x10000
        assert not loaded.arguments
    else:
        assert set(loaded.modes) == {Mode.LONG_CPL0, Mode.LONG_CPL3}


@pytest.mark.parametrize("name", ["hello", "hello16"])
def test_the_console_text_is_in_the_image(name: str) -> None:
    loaded = payload.load(name)
    assert loaded.console is not None
    assert loaded.console.encode() + b"\0" in loaded.image


def test_unknown_payload_names_the_known_ones() -> None:
    with pytest.raises(PayloadError, match=r"no payload named 'helo'; there are: .*checksum"):
        payload.load("helo")


def test_a_damaged_image_is_refused(images: Path) -> None:
    image = images / "hello.bin"
    image.write_bytes(bytes([image.read_bytes()[0] ^ 1]) + image.read_bytes()[1:])
    with pytest.raises(PayloadError) as caught:
        payload.load("hello")
    assert str(image) in str(caught.value)
    assert "ci/rebuild_images --update" in str(caught.value)
    assert payload.load("checksum").size > 0


def test_a_missing_image_is_named(images: Path) -> None:
    (images / "spin.bin").unlink()
    with pytest.raises(PayloadError, match=r"spin\.bin can't be read \(No such file"):
        payload.load("spin")


def test_an_unreadable_manifest_is_named(images: Path) -> None:
    (images / "manifest.toml").write_text("[hello\n")
    with pytest.raises(PayloadError, match=r"manifest\.toml can't be read"):
        payload.names()


def test_the_manifest_has_no_key_that_is_not_used() -> None:
    text = (resources.images_dir() / "x86_64" / "manifest.toml").read_text()
    used = set(payload.Payload.__match_args__) - {"name", "path", "image"}
    for name, table in tomllib.loads(text).items():
        assert set(table) - {"console"} == (used - {"console"}) | {"file", "size"}, name


def test_registers_pass_arguments_by_name() -> None:
    assert payload.load("checksum").registers(start=0x100000, pages=3) == {
        "rdi": 0x100000,
        "rsi": 3,
    }


def test_optional_arguments_are_zero() -> None:
    assert payload.load("exits").registers(case=ExitCase.CPUID, a0=1) == {
        "rdi": 9,
        "rsi": 1,
        "rdx": 0,
        "rcx": 0,
        "r8": 0,
    }


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"start": 0}, "needs pages"),
        ({"start": 0, "pages": 1, "sed": 2}, "no argument 'sed'; it takes start, pages"),
        ({"start": -1, "pages": 1}, "start = -0x1 is not an unsigned"),
        ({"start": 0, "pages": 2**64}, "pages = 0x10000000000000000 is not"),
    ],
)
def test_wrong_arguments_are_refused(values: dict[str, int], complaint: str) -> None:
    with pytest.raises(PayloadError, match=re.escape(complaint)):
        payload.load("checksum").registers(**values)


def test_both_halves_of_the_protocol_agree() -> None:
    shared = source_constants("protocol.inc")
    assert shared == {name: getattr(payload, name) for name in shared}
    assert {"PORT_CONSOLE", "PORT_REPORT", "PORT_DONE"} <= shared.keys()


def test_exit_cases_agree_with_the_source() -> None:
    text = (resources.images_dir() / "x86_64" / "exits.S").read_text()
    cases = {int(n): label for n, label in re.findall(r"^ +CASE +(\d+), \.L(\w+)", text, re.M)}
    assert cases == {case.value: case.name.lower() for case in ExitCase}


def test_touch_flag_agrees_with_the_source() -> None:
    constants = source_constants("touch.S")
    assert constants["FLAG_WRITE"] == payload.TOUCH_WRITE
    table = payload.touch_table([(0x1000, 0), (0xFFFF_FFFF_FFFF_F000, payload.TOUCH_WRITE)])
    assert len(table) == 2 * constants["ENTRY_SIZE"]
    second = table[constants["ENTRY_SIZE"] :]
    gpa_at, flags_at = constants["ENTRY_GPA"], constants["ENTRY_FLAGS"]
    assert second[gpa_at : gpa_at + 8] == (0xFFFF_FFFF_FFFF_F000).to_bytes(8, "little")
    assert second[flags_at : flags_at + 8] == (1).to_bytes(8, "little")


def test_touch_mark_differs_from_its_gpa() -> None:
    assert payload.touch_mark(0x2000) == 0xFFFF_FFFF_FFFF_DFFF
    assert payload.touch_mark(0) == U64


def checksum_as_the_guest_does(page: bytes) -> int:
    """Compute the checksum the way checksum.S does: wrapping at every step."""
    total, running = source_constants("checksum.S")["CHECKSUM_SEED"], 0
    for at in range(0, len(page), 8):
        total = (total + int.from_bytes(page[at : at + 8], "little")) & U64
        running = (running + total) & U64
    return total ^ ((running << 1 | running >> 63) & U64)


@pytest.mark.parametrize(
    "page",
    [bytes(4096), b"\xff" * 4096, random_page(1), random_page(2), bytes(4095) + b"\x80"],
    ids=["zeros", "ones", "random1", "random2", "last-bit"],
)
def test_page_checksum_is_the_guests(page: bytes) -> None:
    assert payload.page_checksum(page) == checksum_as_the_guest_does(page)
    assert payload.page_checksum(bytearray(page)) == payload.page_checksum(page)


def test_page_checksum_reads_a_mapping() -> None:
    with mmap.mmap(-1, 2 * payload.PAGE_SIZE) as mapping:
        mapping[payload.PAGE_SIZE :] = random_page(3)
        with memoryview(mapping) as whole, whole[payload.PAGE_SIZE :] as page:
            assert payload.page_checksum(page) == payload.page_checksum(random_page(3))


def test_page_checksum_sees_any_one_bit() -> None:
    page = random_page(4)
    original = payload.page_checksum(page)
    # 61 is prime, so that the steps visit every bit of a word, all over the page.
    for bit in range(0, 8 * payload.PAGE_SIZE, 61):
        flipped = bytearray(page)
        flipped[bit // 8] ^= 1 << bit % 8
        assert payload.page_checksum(flipped) != original, f"bit {bit}"


def test_page_checksum_sees_words_in_the_wrong_order() -> None:
    page = random_page(5)
    swapped = page[8:16] + page[:8] + page[16:]
    halves = page[2048:] + page[:2048]
    assert len({payload.page_checksum(p) for p in (page, swapped, halves)}) == 3


def test_page_checksum_of_zeros_is_not_a_small_number() -> None:
    assert payload.page_checksum(bytes(4096)) > 2**32


@pytest.mark.parametrize("size", [0, 4088, 4097, 8192])
def test_page_checksum_takes_one_page(size: int) -> None:
    with pytest.raises(ValueError, match=f"a page has 4096 bytes, not {size}"):
        payload.page_checksum(bytes(size))


@pytest.mark.parametrize("seed", [0, 1, 0xFEDCBA9876543210, U64])
@pytest.mark.parametrize("gpa", [0, 0x101000, 0xFFFF_FFFF_F000])
def test_pattern_page_is_the_guests(seed: int, gpa: int) -> None:
    step = source_constants("pattern.S")["PATTERN_STEP"]
    page = payload.pattern_page(seed, gpa)
    assert len(page) == payload.PAGE_SIZE
    for at in (0, 8, 2048, 4088):
        word = (seed + (gpa + at) * step) & U64
        assert page[at : at + 8] == word.to_bytes(8, "little")


def test_pattern_pages_differ_by_seed_and_place() -> None:
    pages = {payload.pattern_page(seed, gpa) for seed in range(4) for gpa in range(0, 0x8000, 4096)}
    assert len(pages) == 32


def test_reader_assembles_console_words_and_status() -> None:
    reader = ReportReader()
    assert reader.feed(payload.PORT_CONSOLE, 1, b"h")
    assert reader.feed(payload.PORT_CONSOLE, 1, b"i\n\xff")
    assert reader.feed(payload.PORT_REPORT, 4, b"\x01\x00\x00\x80")
    assert reader.words == []
    assert not reader.finished
    assert reader.feed(payload.PORT_REPORT, 4, b"\x02\x00\x00\x00")
    assert reader.words == [0x2_8000_0001]
    assert reader.feed(payload.PORT_DONE, 1, b"\x01")
    assert reader.finished
    assert reader.status == payload.STATUS_BAD_ARGUMENT
    assert reader.text == "hi\n\\xff"


def test_reader_leaves_other_ports_to_its_caller() -> None:
    reader = ReportReader()
    assert not reader.feed(0x80, 1, b"\0")
    assert not reader.finished


def test_reader_accepts_the_repeated_end_of_cpl3() -> None:
    reader = ReportReader()
    for _ in range(3):
        assert reader.feed(payload.PORT_DONE, 1, b"\0")
    assert reader.status == payload.STATUS_OK


@pytest.mark.parametrize(
    ("writes", "complaint"),
    [
        ([(0x510, 2, b"\0\0")], "port 0x510 takes writes of 4 bytes, the guest made one of 2"),
        ([(0x510, 4, b"\0\0")], "2 bytes in all"),
        ([(0x3F8, 1, b"")], "0 bytes in all"),
        ([(0x511, 4, b"\0\0\0\0")], "port 0x511 takes writes of 1 bytes"),
        ([(0x510, 4, b"\0\0\0\0"), (0x511, 1, b"\0")], "half a report word outstanding"),
        ([(0x511, 1, b"\0"), (0x511, 1, b"\1")], "finished with status 0, then 1"),
        ([(0x511, 1, b"\0"), (0x510, 4, b"\0\0\0\0")], "port 0x510 after it had finished"),
    ],
)
def test_reader_refuses_what_no_payload_says(
    writes: list[tuple[int, int, bytes]], complaint: str
) -> None:
    reader = ReportReader()
    for port, size, data in writes[:-1]:
        reader.feed(port, size, data)
    port, size, data = writes[-1]
    with pytest.raises(ProtocolError, match=complaint):
        reader.feed(port, size, data)


def test_a_reader_shows_what_it_has_read() -> None:
    reader = ReportReader()
    reader.feed(payload.PORT_CONSOLE, 1, b"hi")
    reader.feed(payload.PORT_REPORT, 4, b"\x2a\0\0\0\1\0\0\0")
    assert repr(reader) == "<ReportReader console='hi' words=[0x10000002a] status=None>"
