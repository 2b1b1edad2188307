# SPDX-License-Identifier: MIT
"""The union of what several boots ran, wherever the modules were."""

from __future__ import annotations

import subprocess
from pathlib import Path

from kvmharness.coverage.executed import TELL_SECTIONS, Executed, sections_told

TEXT = ("kvm", ".text")


def _ran(executed: Executed) -> list[int]:
    return [offset for offset in range(16) if executed.ran(TEXT, offset)]


def test_boots_add_up_and_each_has_its_own_addresses() -> None:
    executed = Executed({TEXT: 16})
    executed.add({TEXT: 0x1000}, b"0x1002:  90 90  nop\n")
    executed.add({TEXT: 0x5000}, b"0x5003:  90 90  nop\n0x1008:  90  nop\n")
    assert _ran(executed) == [2, 3, 4]
    assert executed.boots == 2


def test_code_outside_of_a_section_is_not_of_it() -> None:
    executed = Executed({TEXT: 16})
    executed.add_stretches({TEXT: 0x1000}, [(0xFFC, 0x1001), (0x100F, 0x1020), (0x2000, 0x2010)])
    assert _ran(executed) == [0, 15]


def test_a_module_that_is_of_no_interest_is_passed_over() -> None:
    executed = Executed({TEXT: 16})
    executed.add_stretches({("9p", ".text"): 0x1000}, [(0x1000, 0x1010)])
    assert _ran(executed) == []
    assert not executed.ran(("9p", ".text"), 0)


def test_what_a_guest_tells_of_its_modules_is_read() -> None:
    told = (
        "/sys/module/kvm_amd/sections/.text 0xffffffffc04ab000\n"
        "/sys/module/kvm_amd/sections/.init.text 0xffffffffc04c8000\n"
        "cat: a complaint\n"
    )
    assert sections_told(told) == {("kvm_amd", ".text"): 0xFFFFFFFFC04AB000}


def test_the_command_that_tells_them_names_each_section(tmp_path: Path) -> None:
    sections = tmp_path / "kvm" / "sections"
    sections.mkdir(parents=True)
    for name in (".text", ".noinstr.text", ".data"):
        (sections / name).write_text("0xffffffffc0401000\n")
    script = TELL_SECTIONS.replace("/sys/module", str(tmp_path))
    said = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=30).stdout
    told = sections_told(said.replace(str(tmp_path), "/sys/module"))
    assert set(told) == {("kvm", ".text"), ("kvm", ".noinstr.text")}
