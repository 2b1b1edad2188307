# SPDX-License-Identifier: MIT
"""What of the kernel's log is a finding: each kind of the vocabulary, by the kernel's own words."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kvmharness.kernel_log import taint, vocabulary
from kvmharness.kernel_log.classify import findings, texts
from kvmharness.kernel_log.log import KernelLine

_TABLES = tomllib.loads(Path(__file__).with_name("samples.toml").read_text(encoding="utf-8"))
SAMPLES: list[dict[str, Any]] = _TABLES["sample"]
HARMLESS: list[dict[str, Any]] = _TABLES["harmless"]
W, B, D = (1 << "PFSRMBUDAW".index(letter) for letter in "WBD")


def line(
    text: str, level: int | None = 6, seconds: float = 1.0, facility: int | None = 0
) -> KernelLine:
    return KernelLine(level, seconds, text, facility)


def found(*lines: KernelLine, tainted: int = 0, allowed: str = "") -> list[str]:
    patterns = [re.compile(allowed)] if allowed else []
    return texts(findings(lines, tainted, allowed=patterns))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["text"][:50])
def test_a_report_is_found(sample: dict[str, Any]) -> None:
    assert found(line(sample["text"], sample["level"])) == [sample["finding"]]


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample["text"][:50])
def test_it_is_found_on_a_console_too_which_tells_no_level(sample: dict[str, Any]) -> None:
    assert found(line(sample["text"], None)) == [sample["finding"]]


def test_each_entry_has_a_sample() -> None:
    kinds = {each.kind for s in SAMPLES for each in findings([line(s["text"])])}
    assert [kind.pattern.pattern for kind in vocabulary.load().deny if kind not in kinds] == []


@pytest.mark.parametrize("sample", HARMLESS, ids=lambda sample: sample["text"][:50])
def test_what_is_harmless_is_not_found(sample: dict[str, Any]) -> None:
    assert found(line(sample["text"], sample["level"])) == []


def test_each_line_that_is_allowed_has_a_sample() -> None:
    allowed = [each for each in vocabulary.load().allow if not each.beside]
    lines = [sample["text"] for sample in HARMLESS]
    assert [a.pattern.pattern for a in allowed if not any(map(a.pattern.search, lines))] == []


@pytest.mark.parametrize(("level", "counts"), [(0, True), (2, True), (3, True), (4, False)])
def test_a_line_of_level_3_or_graver_counts_whatever_it_says(level: int, counts: bool) -> None:
    expected = [f"level {level}: kvm_amd: something new"] if counts else []
    assert found(line("kvm_amd: something new", level)) == expected


def test_a_daemon_s_error_is_not_the_kernel_s() -> None:
    assert found(line("systemd[1]: a unit failed", 3, facility=3)) == []
    # But what it quotes of the kernel is.
    assert found(line("BUG: quoted", 3, facility=3)) == ["BUG quoted"]
    assert found(line("said by a process that names no facility", 3, facility=1)) != []


def test_our_own_lines_are_not_found() -> None:
    ours = "kvmharness: begin BUG: KASAN: x in y"
    assert found(line(ours, 3, facility=1), line(ours, None, facility=None)) == []
    assert found(line(ours, 3)) != []  # the kernel itself does not speak so


def test_the_graver_lines_of_a_report_belong_to_it() -> None:
    kasan = [
        line("==================================================================", 3, 1.0),
        line("BUG: KASAN: slab-use-after-free in f+0x1/0x2", 3, 1.0),
        line("Read of size 8 at addr ffff888100000000 by task python3/1", 3, 1.0),
        line("==================================================================", 3, 1.1),
    ]
    assert found(*kasan) == ["KASAN slab-use-after-free in f"]
    after = line("kvm: another matter", 3, 1.1)
    assert found(*kasan, after) == [
        "KASAN slab-use-after-free in f",
        "level 3: kvm: another matter",
    ]


def test_a_report_without_its_last_line_does_not_swallow_what_comes_later() -> None:
    cut = line("WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2", 4, 1.0)
    assert found(cut, line("late", 3, 9.0)) == ["WARNING f", "level 3: late"]


def test_a_report_within_another_one_is_found() -> None:
    warning = line("WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2", 4, 1.0)
    assert found(warning, line("BUG: Bad page state in process x  pfn:1", 1, 1.0)) == [
        "WARNING f",
        "bad page state",
    ]


def test_taint_that_no_line_explains_is_found() -> None:
    warning = line("WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2", 4)
    assert found(warning, tainted=W) == ["WARNING f"]
    assert found(warning, tainted=W | D) == ["WARNING f", "taint D"]
    assert found(tainted=B) == ["taint B"]
    assert taint.letters(W | B | 1 << 31) == ["B", "W", "bit 31"]


def test_a_line_can_be_allowed() -> None:
    usb = line("usb 1-1: device descriptor read/64, error -71", 3)
    assert found(usb) == ["level 3: usb 1-1: device descriptor read/64, error -71"]
    assert found(usb, allowed=r"^usb \d") == []


def test_what_is_allowed_beside_a_warning_is_not_allowed_alone() -> None:
    status = line("kvm_intel: SEAMCALL TDH_MEM_PAGE_ADD failed: 0x8000000000000000", 3)
    warning = line("WARNING: arch/x86/kvm/vmx/tdx.c:1 at tdx_f+0x1/0x2, CPU#0: python3/7", 4)
    end = line("---[ end trace 0000000000000000 ]---", 4)
    assert found(warning, end, status) == ["WARNING tdx_f"]
    assert found(status) == [f"level 3: {status.text}"]


def test_a_malformed_entry_is_refused(tmp_path: Path) -> None:
    for text in (
        "[[deny]]\nname = 'x'",
        "[[deny]]\nname = 'x'\npattern = '('",
        "[[allow]]\npattern = 'x'\nreason = 'y'",
        "[[allow]]\npattern = 'x'\nreason = 'y'\nremove = 'z'\nmore = 1",
    ):
        path = tmp_path / f"{len(text)}.toml"
        path.write_text(text)
        with pytest.raises(vocabulary.VocabularyError):
            vocabulary.load(path)
