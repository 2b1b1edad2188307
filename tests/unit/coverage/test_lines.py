# SPDX-License-Identifier: MIT
"""Source lines out of an object with debug information, for a module with the same code."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from kvmharness.coverage.lines import Line, Lines, ranges
from kvmharness.kernels.elf import BadModule, Module

SOURCE = """\
int release(int x);
int start(int x) { return x ^ 77; }
int launch(int x)
{
    if (x == LAUNCH)
        return release(x) + 5;
    return x * 3;
}

#ifdef STATIC_BRANCH
int branch(int x)
{
    asm goto("1: jmp %l[on]\\n.pushsection __jump_table,\\"aw\\"\\n"
             ".long 1b - ., %l[on] - .\\n.quad 0\\n.popsection" :::: on);
    return release(x);
on:
    return release(-x);
}
#endif

__attribute__((section(".text.unlikely"))) int reclaim(int x)
{
    return x - 9;
}
"""
RECLAIM = SOURCE.splitlines().index("    return x - 9;") + 1
CC = shutil.which("cc")
pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler")


def _object(directory: Path, *options: str) -> bytes:
    """Compile SOURCE in a directory that is called as the kernel's headers are."""
    tree = directory / "linux-headers-7.3.4-common" / "svm"
    tree.mkdir(parents=True, exist_ok=True)
    (tree / "sev.c").write_text(SOURCE)
    assert CC is not None
    argv = [CC, "-c", "-O1", *options, "-o", "sev.o", "svm/sev.c"]
    subprocess.run(argv, cwd=tree.parent, check=True, timeout=60)
    return (tree.parent / "sev.o").read_bytes()


@pytest.fixture
def module(tmp_path: Path) -> Module:
    return Module(_object(tmp_path, "-DLAUNCH=7"))


@pytest.fixture
def debug(tmp_path: Path) -> bytes:
    return _object(tmp_path, "-DLAUNCH=7", "-g")


def _of(lines: Lines, module: Module, function: str) -> set[int]:
    (symbol,) = (symbol for symbol in module.functions() if symbol.name == function)
    found = lines.of(symbol.section, symbol.offset, symbol.offset + symbol.size)
    assert {line.file for line in found} <= {"svm/sev.c"}
    return {line.number for line in found}


def test_each_function_has_its_own_lines_in_whichever_section(module: Module, debug: bytes) -> None:
    lines = Lines.read(module, [debug])
    launch, reclaim = (_of(lines, module, name) for name in ("launch", "reclaim"))
    assert {6, 7} <= launch <= {3, 4, 5, 6, 7, 8}
    assert RECLAIM in reclaim
    assert reclaim <= set(range(RECLAIM - 2, RECLAIM + 2))


def test_a_part_of_a_function_has_a_part_of_its_lines(module: Module, debug: bytes) -> None:
    lines = Lines.read(module, [debug])
    (symbol,) = (symbol for symbol in module.functions() if symbol.name == "launch")
    end = symbol.offset + symbol.size
    assert {line.number for line in lines.of(symbol.section, end - 1, end)} <= {7, 8}
    assert len(_of(lines, module, "launch")) > 2


def test_a_function_with_other_code_has_no_lines(module: Module, tmp_path: Path) -> None:
    lines = Lines.read(module, [_object(tmp_path, "-DLAUNCH=70", "-g")])
    assert _of(lines, module, "launch") == set()
    assert RECLAIM in _of(lines, module, "reclaim")


def test_a_static_branch_may_have_become_a_no_op(tmp_path: Path) -> None:
    options = ("-DLAUNCH=7", "-DSTATIC_BRANCH")
    plain = Module(_object(tmp_path, *options))
    (at,) = (r.addend for r in plain.relocations(".rela__jump_table") if r.target == 0)
    linked = bytearray(plain.data)
    at += plain.section(".text")["sh_offset"]
    no_op = {0xEB: b"\x66\x90", 0xE9: b"\x0f\x1f\x44\0\0"}[linked[at]]
    linked[at : at + len(no_op)] = no_op
    module = Module(bytes(linked))
    lines = _of(Lines.read(module, [_object(tmp_path, *options, "-g")]), module, "branch")
    assert {"    return release(x);", "    return release(-x);"} <= {
        SOURCE.splitlines()[number - 1] for number in lines
    }


def test_an_object_without_debug_information_is_refused(module: Module) -> None:
    with pytest.raises(BadModule, match="no debug information"):
        Lines.read(module, [module.data])


def test_what_is_kept_is_what_was_read(module: Module, debug: bytes) -> None:
    lines = Lines.read(module, [debug])
    kept = Lines.from_data(json.loads(json.dumps(lines.as_data())))
    for name in ("launch", "reclaim"):
        assert _of(kept, module, name) == _of(lines, module, name) != set()


def test_lines_that_follow_one_another_are_told_together() -> None:
    told = ranges([Line("b.c", 5), Line("a.c", 4), Line("a.c", 3), Line("a.c", 6), Line("a.c", 4)])
    assert told == ["a.c:3-4", "a.c:6", "b.c:5"]
