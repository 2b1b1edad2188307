# SPDX-License-Identifier: MIT
"""The Python half of ci/bench; bench.c beside it does the same work.

Each row takes turns between the two, a few milliseconds each, so that what else the machine does
meets both alike. What counts is the ratio; of a quiet machine the one of the fastest turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from kvmharness import Kvm, MissingCapability
from kvmharness.kvm.exits import IoExit
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, Mapping, map_memory
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.machine.cpu_mode import enter
from kvmharness.machine.payload import Mode

HERE = Path(__file__).resolve().parent
SIZE = 1 << 20
MOST = 64 << 20
SLOT_GPA = 1 << 30
#: out %al, $0x10; jmp back to it: real mode, as many exits as one asks for.
PORT = 0x10
PORT_WRITER = bytes([0xE6, 0x10, 0xEB, 0xFC])


class Row(NamedTuple):
    """One line: what is measured, the times C it may take, and how often a turn does it."""

    name: str
    text: str
    goal: float
    in_c: str  # the letter that bench.c knows it by
    count: int
    run: Callable[[int], Any]  # does it so many times
    size: int = 0  # bytes, of a copy


class Turns(NamedTuple):
    """The nanoseconds an operation took, turn by turn."""

    in_c: list[float]
    in_python: list[float]

    @property
    def ratio(self) -> float:
        """Of the fastest turns: what a quiet machine gives."""
        return min(self.in_python) / min(self.in_c)

    @property
    def ratios(self) -> list[float]:
        """Of each pair of turns, sorted."""
        return sorted(p / c for p, c in zip(self.in_python, self.in_c, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side (default: 15)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too; - is stdout")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="these rows alone, by name")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    try:
        kvm = Kvm.open()
    except MissingCapability as error:
        print(f"nothing to measure: {error}")
        return 4
    with ExitStack() as stack:
        rows = every_row(stack.enter_context(kvm), stack)
        if unknown := set(arguments.rows) - {row.name for row in rows}:
            parser.error(
                f"no row {', '.join(unknown)}; there are {', '.join(r.name for r in rows)}"
            )
        in_c = stack.enter_context(c_half())
        measured = [
            (row, take_turns(row, in_c, arguments.rounds))
            for row in rows
            if not arguments.rows or row.name in arguments.rows
        ]
    if arguments.json:
        text = json.dumps(as_json(measured), indent=1) + "\n"
        if arguments.json == "-":
            sys.stdout.write(text)
            return 0
        Path(arguments.json).write_text(text)
    show(measured)
    return 0


@contextmanager
def c_half() -> Iterator[Callable[[Row], float]]:
    """Compile and start bench.c; gives a function that has it do a row's turn."""
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory) / "image.bin"
        image.write_bytes(PORT_WRITER)
        program = Path(directory) / "bench"
        subprocess.run(["cc", "-O2", "-o", program, HERE / "bench.c"], check=True, timeout=60)
        with subprocess.Popen(
            [program, image], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            asked, answers = process.stdin, process.stdout
            assert asked is not None
            assert answers is not None

            def turn(row: Row) -> float:
                print(row.in_c, row.count, row.size, file=asked, flush=True)
                return float(answers.readline())

            yield turn


def take_turns(row: Row, in_c: Callable[[Row], float], rounds: int) -> Turns:
    turns = Turns([], [])
    row.run(max(row.count // 10, 1))  # both have done it before
    in_c(row)
    for _ in range(rounds):
        turns.in_c.append(in_c(row))
        start = time.perf_counter_ns()
        row.run(row.count)
        turns.in_python.append((time.perf_counter_ns() - start) / row.count)
    return turns


def every_row(kvm: Kvm, stack: ExitStack) -> list[Row]:
    """Return the rows; what they work on lives as long as `stack`."""
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    memory = stack.enter_context(map_memory(SIZE, flags=flags))
    memory.write(0x1000, PORT_WRITER)
    vm = stack.enter_context(kvm.create_vm())
    vcpu = stack.enter_context(port_writer(vm, memory))
    target = stack.enter_context(map_memory(MOST, flags=flags))
    target.fill(0, MOST, 2)
    return [
        Row("ioctl.try", "KVM_CHECK_EXTENSION, try_", 3, "i", 10_000, check_tried(kvm)),
        Row("ioctl", "KVM_CHECK_EXTENSION, raising", 2.5, "i", 10_000, check(kvm)),
        Row("regs.try", "KVM_GET_REGS, try_", 3, "r", 5_000, regs_tried(vcpu)),
        Row("regs", "KVM_GET_REGS, raising", 2.5, "r", 5_000, regs(vcpu)),
        Row("slots", "a memslot made and deleted", 1.05, "s", 100, slots(vm, memory)),
        Row("exit", "KVM_RUN to a PIO exit (C: no deadline)", 1.25, "e", 2_000, exits(vcpu)),
        Row("until", "the same exits, in run_until", 1.03, "e", 2_000, stretch(vcpu)),
        Row("vm", "a VM with a vCPU: made, one exit, closed", 1.05, "v", 10, vms(kvm, memory)),
        *copies("write", "guarded write", target),
        *copies("read_into", "guarded read, into a buffer", target),
        *copies("read", "guarded read, into new bytes", target),
    ]


# ------------------------------------------------------------------ what is done


def check_tried(kvm: Kvm) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            kvm.try_.check_extension(0)

    return run


def check(kvm: Kvm) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            kvm.check_extension(0)

    return run


def regs_tried(vcpu: Vcpu) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            vcpu.try_.get_regs()

    return run


def regs(vcpu: Vcpu) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            vcpu.get_regs()

    return run


def slots(vm: Vm, memory: Mapping) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            vm.set_user_memory_region(1, SLOT_GPA, SIZE, memory)
            vm.set_user_memory_region(1, SLOT_GPA, 0, memory)

    return run


def exits(vcpu: Vcpu) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            if not isinstance(vcpu.run(5), IoExit):
                raise RuntimeError("the guest did something other than write to its port")

    return run


def stretch(vcpu: Vcpu) -> Callable[[int], None]:
    def run(count: int) -> None:
        if vcpu.run_until(60, output=[PORT], most=count).exits != count:
            raise RuntimeError("the guest did something other than write to its port")

    return run


def vms(kvm: Kvm, memory: Mapping) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            with kvm.create_vm() as vm, port_writer(vm, memory) as vcpu:
                exits(vcpu)(1)

    return run


def copies(name: str, text: str, target: Mapping) -> list[Row]:
    """Return the rows of a copy, by size."""
    rows = []
    for size, label in ((4096, "4K"), (64 << 10, "64K"), (1 << 20, "1M"), (MOST, "64M")):
        count = max(min(2_000, (16 << 20) // size), 1)
        run = {"write": writing, "read": reading, "read_into": reading_into}[name](target, size)
        goal = 1.3 if size == 4096 else 1.02
        rows.append(Row(f"{name}.{label}", f"{text}, {label}iB", goal, "c", count, run, size))
    return rows


def writing(target: Mapping, size: int) -> Callable[[int], None]:
    data = bytes(size)

    def run(count: int) -> None:
        for _ in range(count):
            target.write(0, data)

    return run


def reading(target: Mapping, size: int) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            target.read(0, size)

    return run


def reading_into(target: Mapping, size: int) -> Callable[[int], None]:
    buffer = bytearray(size)

    def run(count: int) -> None:
        for _ in range(count):
            target.read_into(buffer)

    return run


def port_writer(vm: Vm, memory: Mapping) -> Vcpu:
    """Return a new vCPU of `vm` that writes to its port for ever."""
    vm.set_user_memory_region(0, 0, SIZE, memory.address)
    vcpu = vm.create_vcpu(0)
    enter(vcpu, Mode.REAL, 0x1000)
    return vcpu


# ------------------------------------------------------------------ what is shown


def as_json(measured: list[tuple[Row, Turns]]) -> dict[str, Any]:
    figures = {
        row.name: {
            "what": row.text,
            "goal": row.goal,
            "ratio": turns.ratio,
            "median_ratio": statistics.median(turns.ratios),
            "c_ns": turns.in_c,
            "python_ns": turns.in_python,
        }
        for row, turns in measured
    }
    return {"kernel": os.uname().release, "python": sys.version.split()[0], "rows": figures}


def show(measured: list[tuple[Row, Turns]]) -> None:
    table = Table(title=f"nanoseconds an operation, the fastest turn; Linux {os.uname().release}")
    for title in ("row", "what", "C", "kvmharness", "times C", "median", "middle half", "goal"):
        table.add_column(title, justify="left" if title in ("row", "what") else "right")
    for row, turns in measured:
        ratios = turns.ratios
        quarter = len(ratios) // 4
        table.add_row(
            row.name,
            row.text,
            f"{min(turns.in_c):,.0f}",
            f"{min(turns.in_python):,.0f}",
            f"{turns.ratio:.2f}",
            f"{statistics.median(ratios):.2f}",
            f"{ratios[quarter]:.2f}-{ratios[-1 - quarter]:.2f}",
            f"{row.goal:g}",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    sys.exit(main())
