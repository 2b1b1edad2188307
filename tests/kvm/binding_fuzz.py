# SPDX-License-Identifier: MIT
"""Every public method of the binding with any arguments: whatever they are, an exception at most.

Run as a program, since what it looks for ends the interpreter:

    python binding_fuzz.py KERNEL SECONDS SEED LOG

KERNEL is ``none`` (every ioctl is ENOTTY) or ``kvm``. LOG holds the last call begun. Doors that are
raw by name are left out: raw_ioctl and raw_command with a number, guarded_write to memory that is
not the fuzzer's, and the constructors, which take over what they are given.
"""

from __future__ import annotations

import gc
import inspect
import os
import random
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from kvmharness.kvm import ioctl, mapping, raw
from kvmharness.kvm.clock import ClockData
from kvmharness.kvm.cpuid import Cpuid, CpuidEntry, packed_entries
from kvmharness.kvm.debug import DebugRegs, GuestDebug
from kvmharness.kvm.device import Device
from kvmharness.kvm.dirty import DirtyRing
from kvmharness.kvm.events import VcpuEvents
from kvmharness.kvm.exit_reader import read_exit
from kvmharness.kvm.exits import IoExit, MmioExit
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.fenced import FencedBuffer
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fpu import Fpu, Xcrs, Xsave
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.irqchip import HypervRoute, IrqchipState, MsiRoute, PinRoute, PitState2
from kvmharness.kvm.lapic import Lapic
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, PAGE_SIZE, map_memory
from kvmharness.kvm.mce import MachineCheck
from kvmharness.kvm.memory_encrypt import SevCommand, TdxCommand
from kvmharness.kvm.nested import NestedState
from kvmharness.kvm.registers import Regs, Sregs, Sregs2
from kvmharness.kvm.run_page import KvmRun
from kvmharness.kvm.stats import StatsFd
from kvmharness.kvm.system import Kvm
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.launch.psp import SevDevice, SnpConfig
from kvmharness.launch.sev import Snp
from kvmharness.launch.sev_es import Sev
from kvmharness.launch.sev_structs import (
    SevDbg,
    SevInit,
    SnpLaunchFinish,
    SnpLaunchStart,
    SnpLaunchUpdate,
)
from kvmharness.launch.source import SourceBuffer
from kvmharness.launch.tdx import Tdx, TdxInitMemRegion, TdxVcpu

SMALL = 1 << 20
MMAP_SIZE = 3 * PAGE_SIZE

#: Numbers at which something ends: C types, pages, the address space.
EDGES = [
    sign * (base + step)
    for base in (0, 1, 8, 48, 96, 256, 4096, 1 << 16, 1 << 31, 1 << 32, 1 << 47, 1 << 63, 1 << 64)
    for step in (-1, 0, 1)
    for sign in (1, -1)
]
STRUCTS = [
    "kvm_regs", "kvm_sregs", "kvm_irq_level", "kvm_sev_cmd", "kvm_tdx_cmd", "kvm_enable_cap",
    "kvm_tdx_init_mem_region", "kvm_sev_snp_launch_finish", "kvm_dirty_log", "kvm_lapic_state",
    "kvm_userspace_memory_region2", "kvm_xsave", "kvm_run",
]  # fmt: skip
COUNTED = {
    "kvm_cpuid2": ("nent", "entries"),
    "kvm_msrs": ("nmsrs", "entries"),
    "kvm_msr_list": ("nmsrs", "indices"),
    "kvm_irq_routing": ("nr", "entries"),
}
IOCTLS = sorted(
    name
    for name in dir(lib)
    if name.startswith("KVM_")
    and isinstance(getattr(lib, name), int)
    and getattr(lib, name) >> 8 & 0xFF == 0xAE
    and name != "KVM_RUN"  # as a method it has a deadline
)


def clamped(value: Any, most: int) -> Any:
    """Make a number that would use up this machine's memory or time a small one, or a huge one."""
    if isinstance(value, int) and most < value < 1 << 55:
        return value % most
    return value


# ------------------------------------------------------------------ arguments


def numbers() -> st.SearchStrategy[int]:
    return st.one_of(
        st.sampled_from(EDGES),
        st.integers(0, 300),
        st.integers(),
        st.integers(0, 64).map(lambda page: page * PAGE_SIZE),
    )


def buffers() -> st.SearchStrategy[Any]:
    sizes = st.sampled_from([0, 1, 7, 8, 16, 17, 32, 33, 48, 49, 95, 96, 97, 4095, 4096, 4097])
    kinds = st.sampled_from([bytes, bytearray, memoryview])
    return st.builds(lambda kind, size: kind(b"\xa5" * size), kinds, sizes)


def c_objects() -> st.SearchStrategy[Any]:
    structs = st.sampled_from(STRUCTS).map(lambda name: ffi.new(f"struct {name} *"))
    filled = st.sampled_from(STRUCTS).map(_filled)
    return st.one_of(structs, filled, _counted(), st.sampled_from(_ODDITIES))


def _filled(name: str) -> Any:
    made = ffi.new(f"struct {name} *")
    ffi.buffer(made)[:] = b"\xff" * ffi.sizeof(made[0])
    return made


@st.composite
def _counted(draw: st.DrawFn) -> Any:
    name = draw(st.sampled_from(sorted(COUNTED)))
    count, entries = COUNTED[name]
    made = ffi.new(f"struct {name} *", {entries: draw(st.integers(0, 5))})
    setattr(made, count, draw(st.sampled_from([0, 1, 5, 6, 1000, 2**32 - 1])))
    return made


_ODDITIES = [
    ffi.NULL,
    ffi.new("__u64[]", 4),
    ffi.new("char[]", 1),
    ffi.new("__u64 *"),
    ffi.new("struct kvm_regs *")[0],
    *(ffi.cast(f"struct {name} *", 0) for name in ("kvm_regs", "kvm_cpuid2", "kvm_sev_cmd")),
]


def exits() -> st.SearchStrategy[Any]:
    few = st.sampled_from([0, 1, 2, 4, 8])
    return st.one_of(
        st.builds(IoExit, st.just(2), st.booleans(), numbers(), few, few, st.just(b""), numbers()),
        st.builds(IoExit, st.just(2), st.booleans(), *[numbers()] * 3, st.just(b""), numbers()),
        st.builds(MmioExit, st.just(6), st.booleans(), numbers(), numbers(), st.just(b"")),
    )


def structs() -> st.SearchStrategy[Any]:
    """Typed structs of any kind, of zeros and of ones."""
    kinds = st.sampled_from(_STRUCT_KINDS)
    return st.one_of(kinds.map(lambda kind: kind()), kinds.map(_full))


def _full(kind: Any) -> Any:
    return kind.from_bytes(b"\xff" * len(bytes(kind())))


_STRUCT_KINDS = [
    *(Regs, Sregs, Sregs2, Fpu, Lapic, VcpuEvents, IrqchipState, PitState2, SevCommand, TdxCommand),
    *(SevInit, SnpLaunchStart, SnpLaunchUpdate, SnpLaunchFinish, SevDbg, TdxInitMemRegion, KvmRun),
]


@st.composite
def run_pages(draw: st.DrawFn) -> Any:
    """Make a struct kvm_run as no kernel leaves it, for any reason that there is or may be."""
    made = _filled("kvm_run")
    made.exit_reason = draw(st.one_of(st.just(lib.KVM_EXIT_IO), st.integers(0, 60)))
    if draw(st.booleans()):
        made.io.size, made.io.count = draw(st.integers(1, 8)), draw(st.integers(1, 3000))
        made.io.direction = lib.KVM_EXIT_IO_OUT
        made.io.data_offset = draw(st.integers(0, 2**64 - 1))
    return made


@dataclass(frozen=True)
class Of:
    """One of the world's objects, or an attribute of it: there only when the call is made."""

    label: str
    attribute: str = ""

    def found(self, world: World) -> Any:
        thing = world.objects[self.label]
        if not self.attribute:
            return thing
        value = getattr(thing, self.attribute)
        return value() if callable(value) else value


OBJECTS = (
    "kvm", "vm", "vcpu", "memfd", "device", "sev", "mapping", "fenced", "source", "snp", "tdx",
    "tdx_vcpu", "ring", "stats", "lapic", "xsave", "sev_es",
)  # fmt: skip

ANYTHING = st.one_of(
    numbers(),
    buffers(),
    c_objects(),
    exits(),
    st.sampled_from(OBJECTS).map(Of),
    st.sampled_from([None, True, 1.5, -1.0, float("nan"), float("inf"), "", "snp", "KVM_RUN"]),
    st.lists(numbers(), max_size=6),
    st.lists(st.tuples(numbers(), numbers(), numbers()), max_size=18),
    st.dictionaries(numbers(), numbers(), max_size=4),
    st.lists(st.builds(CpuidEntry, *[numbers()] * 7), max_size=3),
    structs(),
)

#: What a parameter of that name is meant to take, more or less. Others take numbers.
FITTING: dict[str, st.SearchStrategy[Any]] = {
    "regs": st.builds(Regs),
    "sregs": st.one_of(st.builds(Sregs), st.builds(Sregs2)),
    "cpuid": st.lists(st.builds(CpuidEntry, *[numbers()] * 7), max_size=3),
    "command": st.one_of(
        st.builds(SevCommand, id=st.integers(0, 40), data=st.integers(0, 2**64 - 1)),
        st.builds(TdxCommand, id=st.integers(0, 8), data=st.integers(0, 2**64 - 1)),
    ),
    "show": st.one_of(st.none(), structs()),
    "value": st.one_of(buffers(), structs(), numbers()),
    "parameters": structs(),
    "exit_": exits(),
    "run": run_pages(),
    "data": st.one_of(st.binary(max_size=8), buffers()),
    "name": st.sampled_from(IOCTLS),
    "request": st.sampled_from(IOCTLS),
    "argument": c_objects(),
    "mapping": st.just(Of("mapping")),
    "userspace_addr": st.sampled_from([0, Of("mapping"), Of("mapping", "address")]),
    "guest_memfd": st.just(Of("memfd")),
    "source": st.one_of(st.sampled_from([None, Of("source"), Of("mapping")]), buffers()),
    "indices": st.lists(numbers(), max_size=6),
    "values": st.dictionaries(numbers(), numbers(), max_size=4),
    "ranges": st.lists(st.tuples(numbers(), numbers(), numbers()), max_size=18),
    "slot": st.integers(0, 3),
    "fd": st.sampled_from([Of("vm", "fileno"), Of("kvm", "fileno"), Of("vcpu", "fileno")]),
    "bitmap": buffers(),
    "routes": st.lists(
        st.one_of(
            st.builds(PinRoute, *[numbers()] * 3),
            st.builds(MsiRoute, *[numbers()] * 4),
            st.builds(HypervRoute, *[numbers()] * 3),
        ),
        max_size=5,
    ),
    "events": st.one_of(st.builds(VcpuEvents), st.lists(numbers(), max_size=6)),
    "state": st.one_of(
        st.builds(PitState2),
        st.builds(IrqchipState),
        st.builds(NestedState, numbers(), numbers(), buffers(), buffers()),
    ),
    "xsave": st.builds(Xsave, st.integers(0, 3 * PAGE_SIZE).map(bytearray)),
    "fpu": st.builds(Fpu),
    "xcrs": st.builds(Xcrs),
    "lapic": st.builds(Lapic),
    "registers": st.builds(DebugRegs),
    "debug": st.one_of(st.builds(GuestDebug), numbers()),
    "debugreg": st.lists(numbers(), max_size=9),
    "clock": st.builds(ClockData),
    "error": st.builds(MachineCheck),
    "config": st.builds(SnpConfig),
    "memory": st.sampled_from([Of("source"), Of("mapping"), 0]),
    **{name: buffers() for name in ("header", "packet", "nonce", "pek", "oca", "hashstick")},
}


# ------------------------------------------------------------------ what is called


class World:
    """One object of each kind, on fds that know no KVM ioctl or on real ones."""

    def __init__(self, kernel: str) -> None:
        anonymous = MAP_PRIVATE | MAP_ANONYMOUS
        self.real = kernel == "kvm"
        kvm, vm, vcpu, memfd = _real() if self.real else _none()
        self.objects: dict[str, Any] = {
            "kvm": kvm,
            "vm": vm,
            "vcpu": vcpu,
            "memfd": memfd,
            "device": Device(os.open("/dev/null", os.O_RDWR)),
            "sev": SevDevice(os.open("/dev/null", os.O_RDWR)),
            "mapping": map_memory(4 * PAGE_SIZE, flags=anonymous),
            "fenced": FencedBuffer(100),
            "source": SourceBuffer.anonymous(2),
            "snp": Snp(vm, kvm.fileno()),
            "sev_es": Sev(vm, kvm.fileno()),
            "tdx": Tdx(vm),
            "tdx_vcpu": TdxVcpu(vcpu),
            "ring": DirtyRing(_ring_file(), PAGE_SIZE),
            "stats": StatsFd(os.open("/dev/null", os.O_RDWR)),
            "lapic": Lapic(),
            "xsave": Xsave(bytearray(PAGE_SIZE)),
        }
        # What lies about on the heap, between the objects that the calls make.
        self.sentinels = [ffi.new("char[]", b"\x5a" * size) for size in (8, 40, 128, 1000, 5000)]

    def calls(self) -> dict[str, Callable[..., Any]]:
        """Return every public method by name, in both forms, and the modules' functions."""
        found = dict(_FUNCTIONS)
        for label, thing in self.objects.items():
            for form, of in (("", thing), (".try_", getattr(thing, "try_", None))):
                for name in _public(type(of)):
                    found[f"{label}{form}.{name}"] = getattr(of, name)
        return found

    def check(self) -> None:
        """Exit with status 3 if memory that nobody was given has changed."""
        for sentinel in self.sentinels:
            if bytes(ffi.buffer(sentinel)).strip(b"\x5a") != b"\0":
                os._exit(3)

    def close(self) -> None:
        for thing in self.objects.values():
            if hasattr(thing, "close"):
                thing.close()


def _none() -> tuple[Kvm, Vm, Vcpu, GuestMemfd]:
    fd = os.memfd_create("vcpu", os.MFD_CLOEXEC)
    os.truncate(fd, MMAP_SIZE)
    memory = os.memfd_create("memory", os.MFD_CLOEXEC)
    os.truncate(memory, 4 * PAGE_SIZE)
    vm = Vm(os.open("/dev/null", os.O_RDWR), MMAP_SIZE, 0)
    kvm = Kvm(os.open("/dev/null", os.O_RDWR))
    return kvm, vm, Vcpu(fd, 0, MMAP_SIZE, vm.memslots), GuestMemfd(memory, 4 * PAGE_SIZE, 0)


def _ring_file() -> OwnedFd:
    """Return a file that has a dirty ring where a vCPU has it."""
    fd = os.memfd_create("ring", os.MFD_CLOEXEC)
    os.truncate(fd, (lib.KVM_DIRTY_LOG_PAGE_OFFSET + 1) * PAGE_SIZE)
    return OwnedFd(fd)


def _real() -> tuple[Kvm, Vm, Vcpu, GuestMemfd]:
    kvm = Kvm.open()
    vm = kvm.create_vm()
    made = vm.try_.create_guest_memfd(4 * PAGE_SIZE)
    return kvm, vm, vm.create_vcpu(0), made.value or _none()[3]


_PUBLIC: dict[type, list[str]] = {}


def _public(kind: type) -> list[str]:
    if kind not in _PUBLIC:
        _PUBLIC[kind] = [
            name
            for name, _ in inspect.getmembers(kind, callable)
            if not name.startswith("_") and name not in _LEFT_OUT
        ]
    return _PUBLIC[kind]


def _read_exit(run: Any, errno: int) -> Any:
    """Leave out the size: how much is mapped from there is the caller's word."""
    return read_exit(run, errno)


#: Raw by name, or about files and not about the binding.
_LEFT_OUT = {"raw_command", "open", "file"}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "call": ioctl.call,
    "brief": ioctl.brief,
    "decode": ioctl.decode,
    "raw_ioctl": raw.raw_ioctl,
    "try_mmap": mapping.try_mmap,
    "map_memory": mapping.map_memory,
    "mappings_in": mapping.mappings_in,
    "guarded_read": mapping.guarded_read,
    "guarded_write": mapping.guarded_write,
    "read_exit": _read_exit,
    "packed_entries": packed_entries,
    "cpuid_from_bytes": Cpuid.from_bytes,
}


def arguments(call: Callable[..., Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return what to call with, by name: what fits, mostly, or anything."""
    required: dict[Any, st.SearchStrategy[Any]] = {}
    optional: dict[Any, st.SearchStrategy[Any]] = {}
    for name, parameter in inspect.signature(call).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        fits = FITTING.get(name, numbers())
        by_default = parameter.default is not parameter.empty
        # one_of draws its choices alike: three of four fit.
        (optional if by_default else required)[name] = st.one_of(fits, fits, fits, ANYTHING)
    return st.fixed_dictionaries(required, optional=optional)


#: Where the binding itself reads and writes memory by what it is given.
_BY_SIZE = (
    "call", "raw_ioctl", "read_exit", "decode", "brief", "cpuid_from_bytes", "try_mmap",
    "vcpu.complete_io", "vm.try_.get_dirty_log", "vm.try_.set_user_memory_region2",
    "vm.try_.set_msr_filter", "device.try_.get_attr", "vcpu.try_.set_cpuid2",
    "snp.try_.launch_finish", "snp.try_.launch_start", "tdx.try_.init_vm", "snp.try_.command",
    "mapping.read", "mapping.write", "mapping.fill",
)  # fmt: skip


def _worthwhile(world: World) -> list[str]:
    """Return what to call again and again: with arguments, in one of two forms, by size oftener."""
    calls = world.calls()
    some = [
        label
        for label, call in calls.items()
        if inspect.signature(call).parameters
        and (".try_." in label or label.replace(".", ".try_.") not in calls)
    ]
    return sorted([*some, *_BY_SIZE * 6])


#: How often a call is made: as it was drawn, and with an argument or two changed.
VARIANTS = 16
SALT = st.integers(0, 2**32 - 1)


def variants(drawn: dict[str, Any], salt: int) -> Iterator[dict[str, Any]]:
    """Give the arguments as drawn, then changed: drawing anew costs a hundred times the call."""
    yield dict(drawn)
    if not drawn:
        return
    chance = random.Random(salt)
    names = sorted(drawn)
    for _ in range(VARIANTS - 1):
        given = dict(drawn)
        for name in chance.choices(names, k=chance.choice((1, 1, 2))):
            given[name] = _changed(chance, given[name])
        yield given


def _changed(chance: random.Random, value: Any) -> Any:
    if isinstance(value, (IoExit, MmioExit, CpuidEntry)) and chance.random() < 0.8:
        numeric = [
            field for field in value.__match_args__ if isinstance(getattr(value, field), int)
        ]
        changes: dict[str, Any] = {
            name: _number(chance) for name in numeric if chance.random() < 0.5
        }
        return value.replaced(**changes)
    kind = chance.random()
    if isinstance(value, int) or kind < 0.4:
        return _number(chance)
    if kind < 0.6:
        return b"\xa5" * chance.choice((0, 1, 2, 4, 8, 16, 17, 33, 49, 96, 97, 4096, 4097, 10000))
    if kind < 0.8:
        return chance.choice(_ODDITIES)
    return chance.choice((None, 1.5, "", [], [1, 2, 3], {1: 2}, *map(Of, OBJECTS)))


def _number(chance: random.Random) -> int:
    kind = chance.random()
    if kind < 0.4:
        return chance.randrange(9)
    if kind < 0.7:
        return chance.choice(EDGES)
    return chance.randrange(1 << chance.randrange(1, 66))


def tamed(world: World, label: str, given: dict[str, Any]) -> dict[str, Any]:
    """Take the edge off what would harm this machine, or is a raw door by name."""
    for name, value in given.items():
        given[name] = clamped(value, _MOST.get(name, SMALL if name.endswith("size") else 1 << 54))
    if label.endswith((".run", ".run_until")):  # None would be no deadline
        given["timeout"] = 0.001
    if given.get("advice") in (100, 101):  # MADV_HWPOISON and MADV_SOFT_OFFLINE take pages away
        given["advice"] = 0
    if label == "guarded_write" and not _is_ours(given.get("address")):
        given["address"] = 0x10
    if label == "raw_ioctl" and world.real and isinstance(given.get("argument", 0), int):
        given["argument"] = b""
    if world.real and "userspace_addr" in given and not _is_ours(given["userspace_addr"]):
        given["userspace_addr"] = 0  # the guest's stores would go there
    return given


#: Numbers beyond these cost memory or time, and show nothing that smaller ones don't.
_MOST = {"pages": 64, "entries": 1 << 16, "offset": SMALL}


def _is_ours(address: Any) -> bool:
    return not isinstance(address, int) or bool(mapping.mappings_in(address, 1))


def _shown(value: Any) -> str:
    return repr(value)[:200]


def main(kernel: str, seconds: float, first: int, log_path: str) -> int:
    """Fuzz for `seconds`; prints how many calls were made, and how many came to the kernel."""
    # Files and mappings too large to have end as errors, and not as this machine's memory.
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL * 64, SMALL * 64))
    warnings.simplefilter("ignore")
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    end = time.monotonic() + seconds
    counts = {"calls": 0, "returned": 0}
    used: set[str] = set()

    world = World(kernel)
    strategies = {label: arguments(call) for label, call in world.calls().items()}
    steps = st.lists(
        st.sampled_from(_worthwhile(world)).flatmap(
            lambda label: st.tuples(st.just(label), strategies[label], SALT)
        ),
        min_size=1,
        max_size=20,
    )

    world.close()

    def example(wanted: Iterable[tuple[str, dict[str, Any], int]]) -> None:
        world = World(kernel)
        calls = world.calls()
        for label, drawn, salt in wanted:
            for named in variants(drawn, salt):
                with suppress(Exception):  # such as the number of a closed object
                    named = {
                        name: value.found(world) if isinstance(value, Of) else value
                        for name, value in named.items()
                    }
                named = tamed(world, label, named)
                os.pwrite(log, f"{label}({_shown(named)})".ljust(2000).encode(), 0)
                counts["calls"] += 1
                used.add(label)
                with suppress(Exception):
                    calls[label](**named)
                    counts["returned"] += 1
            world.check()
        with suppress(Exception):
            world.close()

    def batch(number: int, wanted: st.SearchStrategy[Any], examples: int) -> None:
        @seed(number)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(wanted)
        def run(wanted: Iterable[tuple[str, dict[str, Any], int]]) -> None:
            example(wanted)

        run()
        gc.collect()

    # Each method once, some at a time; then whatever comes.
    labels = sorted(strategies)
    for start in range(0, len(labels), 12):
        named = [
            st.tuples(st.just(label), strategies[label], SALT) for label in labels[start:][:12]
        ]
        batch(first, st.tuples(*named), 2)
    number = first
    while time.monotonic() < end:
        batch(number, steps, 40)
        number += 1
    left = sorted(strategies.keys() - used)
    print(f"{counts['calls']} calls, {counts['returned']} returned, not called: {left}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
