# SPDX-License-Identifier: MIT
"""The Python half: what is measured, by row. c_half.c beside it does the same work.

Each row keeps what it works on for as long as the benchmark runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from kvmharness.kvm.caps import Cap
from kvmharness.kvm.exits import IoExit
from kvmharness.kvm.flags import MemoryAttribute
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, PAGE_SIZE, Mapping, map_memory
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.machine.cpu_mode import enter
from kvmharness.machine.payload import Mode
from kvmharness.record import Record

SIZE = 1 << 20
MOST = 64 << 20
SLOT_GPA = 1 << 30
PRIVATE = int(MemoryAttribute.PRIVATE)
#: out %al, $0x10; jmp back to it: real mode, as many exits as one asks for.
PORT = 0x10
PORT_WRITER = bytes([0xE6, 0x10, 0xEB, 0xFC])


class Row(Record, frozen=True):
    """One line: what is measured, the times C it may take, and how often a turn does it.

    `in_c` is the letter that c_half.c knows it by; `size` what it takes beside, a copy's bytes.
    """

    name: str
    text: str
    goal: float
    in_c: str
    count: int
    run: Callable[[int], Any]  # does it so many times
    size: int = 0


def every_row(kvm: Kvm, stack: ExitStack) -> list[Row]:
    """Return the rows; what they work on lives as long as `stack`."""
    flags = MAP_PRIVATE | MAP_ANONYMOUS
    memory = stack.enter_context(map_memory(SIZE, flags=flags))
    memory.write(0x1000, PORT_WRITER)
    vm = stack.enter_context(kvm.create_vm())
    vcpu = stack.enter_context(_port_writer(vm, memory))
    target = stack.enter_context(map_memory(MOST, flags=flags))
    target.fill(0, MOST, 2)
    second = stack.enter_context(vm.create_vcpu(1))
    enter(second, Mode.REAL, 0x1000)
    return [
        Row("ioctl.try", "KVM_CHECK_EXTENSION, try_", 3, "i", 1_000, _check_tried(kvm)),
        Row("ioctl", "KVM_CHECK_EXTENSION, raising", 2.5, "i", 1_000, _check(kvm)),
        Row("regs.try", "KVM_GET_REGS, try_", 3, "r", 200, _regs_tried(vcpu)),
        Row("regs", "KVM_GET_REGS, raising", 2.5, "r", 200, _regs(vcpu)),
        Row("slots", "a memslot made and deleted: two ioctls", 1.25, "s", 20, _slots(vm, memory)),
        Row("slots.many", "the same in one churn_memslot", 1.05, "s", 40, _churn(vm, memory)),
        *_attributes(kvm, stack),
        Row("exit", "KVM_RUN to a PIO exit (C: no deadline)", 1.25, "e", 300, _exits(vcpu)),
        Row("until", "the same exits, in run_until", 1.03, "e", 500, _stretch(vcpu)),
        Row(
            "until.two",
            "two vCPUs in run_until on two threads",
            1.03,
            "t",
            5_000,
            _two(vcpu, second),
        ),
        Row(
            "until.busy",
            "run_until beside a busy Python thread",
            1.11,
            "b",
            25_000,
            _beside_busy(vcpu),
        ),
        Row("vm", "a VM with a vCPU: made, one exit, closed", 1.05, "v", 10, _vms(kvm, memory)),
        *_copies("write", "guarded write", target),
        *_copies("read_into", "guarded read, into a buffer", target),
        *_copies("read", "guarded read, into new bytes (C: a buffer it has)", target),
    ]


# ------------------------------------------------------------------ what is done


def _check_tried(kvm: Kvm) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            kvm.try_.check_extension(0)

    return run


def _check(kvm: Kvm) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            kvm.check_extension(0)

    return run


def _regs_tried(vcpu: Vcpu) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            vcpu.try_.get_regs()

    return run


def _regs(vcpu: Vcpu) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            vcpu.get_regs()

    return run


def _slots(vm: Vm, memory: Mapping) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            vm.set_user_memory_region(1, SLOT_GPA, SIZE, memory)
            vm.set_user_memory_region(1, SLOT_GPA, 0, memory)

    return run


def _exits(vcpu: Vcpu) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            if not isinstance(vcpu.run(5), IoExit):
                raise RuntimeError("the guest did something other than write to its port")

    return run


def _stretch(vcpu: Vcpu) -> Callable[[int], None]:
    def run(count: int) -> None:
        if vcpu.run_until(60, output=[PORT], most=count).exits != count:
            raise RuntimeError("the guest did something other than write to its port")

    return run


def _churn(vm: Vm, memory: Mapping) -> Callable[[int], None]:
    def run(count: int) -> None:
        vm.churn_memslot(1, SLOT_GPA, SIZE, memory, count)

    return run


def _attributes(kvm: Kvm, stack: ExitStack) -> list[Row]:
    """Return the row of memory attributes, where a VM type that is offered has them."""
    for vm_type in sorted(kvm.vm_types()):
        made = kvm.try_.create_vm(vm_type)
        if made.value is None:
            continue
        vm = stack.enter_context(made.value)
        if not vm.check_extension(Cap.MEMORY_ATTRIBUTES):
            continue
        # Every other page, private and shared in turn, so that each changes something.
        ranges = [(SLOT_GPA + 2 * n * PAGE_SIZE, PAGE_SIZE, n % 2 * PRIVATE) for n in range(2_000)]

        def run(count: int, vm: Vm = vm, ranges: list[tuple[int, int, int]] = ranges) -> None:
            vm.set_memory_attributes_many(ranges[:count])

        text = f"attributes of many ranges, {vm_type.label} VM, in one go"
        return [Row("attrs.many", text, 1.05, "a", len(ranges), run, int(vm_type))]
    return []


def _two(first: Vcpu, second: Vcpu) -> Callable[[int], None]:
    def run(count: int) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda vcpu: _stretch(vcpu)(count), (first, second)))

    return run


def _beside_busy(vcpu: Vcpu) -> Callable[[int], None]:
    def run(count: int) -> None:
        over = threading.Event()
        busy = threading.Thread(target=_spin, args=(over,))
        busy.start()
        try:
            _stretch(vcpu)(count)
        finally:
            over.set()
            busy.join()

    return run


def _spin(over: threading.Event) -> None:
    while not over.is_set():
        pass


def _vms(kvm: Kvm, memory: Mapping) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            with kvm.create_vm() as vm, _port_writer(vm, memory) as vcpu:
                _exits(vcpu)(1)

    return run


def _copies(name: str, text: str, target: Mapping) -> list[Row]:
    """Return the rows of a copy, by size."""
    rows = []
    for size, label in ((4096, "4K"), (64 << 10, "64K"), (1 << 20, "1M"), (MOST, "64M")):
        count = max(min(500, (4 << 20) // size), 1)
        run = {"write": _writing, "read": _reading, "read_into": _reading_into}[name](target, size)
        goal = 1.3 if size == 4096 else 1.02
        rows.append(Row(f"{name}.{label}", f"{text}, {label}iB", goal, "c", count, run, size))
    return rows


def _writing(target: Mapping, size: int) -> Callable[[int], None]:
    data = bytes(size)

    def run(count: int) -> None:
        for _ in range(count):
            target.write(0, data)

    return run


def _reading(target: Mapping, size: int) -> Callable[[int], None]:
    def run(count: int) -> None:
        for _ in range(count):
            target.read(0, size)

    return run


def _reading_into(target: Mapping, size: int) -> Callable[[int], None]:
    buffer = bytearray(size)

    def run(count: int) -> None:
        for _ in range(count):
            target.read_into(buffer)

    return run


def _port_writer(vm: Vm, memory: Mapping) -> Vcpu:
    """Return a new vCPU of `vm` that writes to its port for ever."""
    vm.set_user_memory_region(0, 0, SIZE, memory)
    vcpu = vm.create_vcpu(0)
    enter(vcpu, Mode.REAL, 0x1000)
    return vcpu
