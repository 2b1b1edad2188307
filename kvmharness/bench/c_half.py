# SPDX-License-Identifier: MIT
"""The C half: c_half.c, compiled on the spot, which does a row's work when it is told to."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kvmharness import process
from kvmharness.errors import HarnessError

_SOURCE = Path(__file__).with_suffix(".c")
#: Seconds for a compiler, on an emulated host too. A turn has its deadline in c_half.c.
_COMPILE_SECONDS = 300

#: Does the operation of this letter so many times, with a size; gives nanoseconds for each.
Turn = Callable[[str, int, int], float]


class NoCompiler(HarnessError):
    """There is no C to compare with, for this reason."""


@contextmanager
def c_half(payload: bytes) -> Iterator[Turn]:
    """Compile and start the C half; `payload` is its guest's code, in real mode at gpa 0x1000.

    The compiler is $CC, by default cc; NoCompiler without one that works.
    """
    with tempfile.TemporaryDirectory(prefix="kvmharness-bench-") as directory:
        program, image = Path(directory) / "c_half", Path(directory) / "image.bin"
        image.write_bytes(payload)
        _compile(program)
        with process.child(
            [str(program), str(image)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as running:
            asked, answers = running.stdin, running.stdout
            assert asked is not None
            assert answers is not None

            def turn(letter: str, count: int, size: int) -> float:
                print(letter, count, size, file=asked, flush=True)
                answer = answers.readline()
                if not answer:
                    raise HarnessError(
                        f"the C half ended in the middle of operation {letter!r} "
                        f"(status {running.wait(10)})"
                    )
                return float(answer)

            yield turn


def _compile(program: Path) -> None:
    compiler = shlex.split(os.environ.get("CC", "cc")) or ["cc"]
    argv = [*compiler, "-O2", "-pthread", "-o", str(program), str(_SOURCE)]
    try:
        done = process.run(argv, timeout=_COMPILE_SECONDS)
    except OSError:
        raise NoCompiler(f"no C compiler: {compiler[0]} is not there") from None
    except subprocess.TimeoutExpired:
        raise NoCompiler(f"{compiler[0]} did not come to an end") from None
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr)
        raise NoCompiler(f"{compiler[0]} can't compile the C half: {said.strip()[:200]}")
