# SPDX-License-Identifier: MIT
"""Scenarios on default VMs: guest_memfd and memory attributes by themselves, nothing encrypted.

What each gives on which kernel is in contract/guest_memfd.toml; here is only what is tried.
"""

from __future__ import annotations

import os

from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.guest_memfd import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from kvmharness.kvm.mapping import MAP_PRIVATE, MAP_SHARED, PAGE_SIZE, PROT_READ, try_mmap
from kvmharness.scenarios.guest_memfd_bench import (
    GPA,
    IN_PLACE,
    PAGES,
    SIZE,
    DefaultBench,
    default_scenario,
)

_PRIVATE = lib.KVM_MEMORY_ATTRIBUTE_PRIVATE
_MMAP = lib.GUEST_MEMFD_FLAG_MMAP
_INIT_SHARED = lib.GUEST_MEMFD_FLAG_INIT_SHARED


# ------------------------------------------------------------------ what the VM says of itself


@default_scenario("gmem.capability.default_vm", "what a default VM says it has")
def _capabilities(bench: DefaultBench) -> None:
    for name in ("GUEST_MEMFD", "GUEST_MEMFD_FLAGS", "MEMORY_ATTRIBUTES"):
        value = bench.vm.check_extension(getattr(lib, f"KVM_CAP_{name}"))
        bench.fact(f"KVM_CAP_{name}", f"{value:#x}")


# ------------------------------------------------------------------ creation


@default_scenario("gmem.create.default_vm", "guest_memfds of a default VM, and a slot of the first")
def _create(bench: DefaultBench) -> None:
    for label, flags in (
        ("no flags", 0),
        ("MMAP", _MMAP),
        ("INIT_SHARED", _INIT_SHARED),
        ("MMAP and INIT_SHARED", IN_PLACE),
    ):
        made = bench.step(label, bench.vm.try_.create_guest_memfd(SIZE, flags))
        if made.value is not None:
            with made.value:
                if not flags:
                    bench.bind("a slot of it", made.value)


@default_scenario("gmem.create.flags", "flags nobody has defined")
def _create_flags(bench: DefaultBench) -> None:
    for bit in (2, 31, 63):
        bench.step(f"bit {bit}", bench.vm.try_.create_guest_memfd(SIZE, 1 << bit))


@default_scenario("gmem.create.sizes", "sizes that are no positive number of whole pages")
def _create_sizes(bench: DefaultBench) -> None:
    for size in (0, 1, PAGE_SIZE - 1, PAGE_SIZE + 1, 1 << 63, (1 << 64) - PAGE_SIZE):
        bench.step(f"{size:#x} bytes", bench.vm.try_.create_guest_memfd(size))


@default_scenario("gmem.create.huge", "a guest_memfd of 2^62 bytes: nothing is allocated yet")
def _create_huge(bench: DefaultBench) -> None:
    bench.memfd()  # skips where there are none
    made = bench.step("2^62 bytes", bench.vm.try_.create_guest_memfd(1 << 62))
    if made.value is not None:
        made.value.close()


# ------------------------------------------------------------------ binding


@default_scenario("gmem.bind.whole", "a slot of the whole guest_memfd, deleted, made again")
def _bind_whole(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    bench.bind("bind", guest_memfd)
    bench.bind("delete", guest_memfd, size=0)
    bench.bind("bind again", guest_memfd)


@default_scenario("gmem.bind.past_end", "ranges that run past the guest_memfd's end")
def _bind_past_end(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    bench.bind("a page too long", guest_memfd, size=SIZE + PAGE_SIZE)
    bench.bind("a page too far", guest_memfd, offset=PAGE_SIZE)
    bench.bind("from the end on", guest_memfd, offset=SIZE, size=PAGE_SIZE)


@default_scenario("gmem.bind.offset", "offsets that are unaligned or negative")
def _bind_offset(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    bench.bind("1", guest_memfd, offset=1, size=PAGE_SIZE)
    bench.bind("-4096", guest_memfd, offset=(1 << 64) - PAGE_SIZE, size=PAGE_SIZE)


@default_scenario("gmem.bind.overflow", "an offset whose sum with the size is negative as an off_t")
def _bind_overflow(bench: DefaultBench) -> None:
    bench.bind("2^63 - 4096", bench.memfd(), offset=(1 << 63) - PAGE_SIZE)


@default_scenario("gmem.bind.overlap", "two slots of the same pages of a guest_memfd")
def _bind_overlap(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    bench.bind("pages 0 to 1", guest_memfd, size=2 * PAGE_SIZE)
    for label, page in (("pages 1 to 2", 1), ("pages 2 to 3", 2)):
        offset, size = page * PAGE_SIZE, 2 * PAGE_SIZE
        bench.bind(label, guest_memfd, slot=1, gpa=2 * GPA, offset=offset, size=size)


@default_scenario("gmem.bind.overlap_gpa", "two slots at the same guest address")
def _bind_overlap_gpa(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    bench.bind("the first", guest_memfd, size=PAGE_SIZE)
    bench.bind("the second", guest_memfd, slot=1, offset=PAGE_SIZE, size=PAGE_SIZE)


@default_scenario("gmem.bind.other_vm", "a guest_memfd of another VM")
def _bind_other_vm(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    with bench.kvm.create_vm() as other:
        bench.bind("in the other VM", guest_memfd, vm=other)
    bench.bind("in its own", guest_memfd)


@default_scenario("gmem.bind.other_files", "fds that are no guest_memfd")
def _bind_other_files(bench: DefaultBench) -> None:
    bench.memfd()
    with OwnedFd(os.memfd_create("kvmharness-not-guest")) as plain:
        os.truncate(plain.fileno(), SIZE)
        bench.bind("a memfd", plain.fileno())
    bench.bind("/dev/kvm", bench.kvm.fileno())
    bench.bind("none", -1)


@default_scenario("gmem.bind.flags", "other flags beside KVM_MEM_GUEST_MEMFD")
def _bind_flags(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    for name in ("KVM_MEM_READONLY", "KVM_MEM_LOG_DIRTY_PAGES"):
        bench.bind(name, guest_memfd, flags=lib.KVM_MEM_GUEST_MEMFD | getattr(lib, name))


@default_scenario("gmem.slot.change", "a live slot: moved, grown, its flag taken off and put on")
def _slot_change(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    bench.bind("bind", guest_memfd, size=2 * PAGE_SIZE)
    bench.bind("move", guest_memfd, size=2 * PAGE_SIZE, gpa=2 * GPA)
    bench.bind("grow", guest_memfd)
    bench.bind("without the flag", guest_memfd, size=2 * PAGE_SIZE, flags=0)
    region = bench.vm.try_.set_user_memory_region2
    bench.step("a slot without", region(1, 2 * GPA, PAGE_SIZE, 0))
    bench.bind("the flag put on", guest_memfd, slot=1, gpa=2 * GPA, size=PAGE_SIZE)


# ------------------------------------------------------------------ mapping


@default_scenario("gmem.mmap.in_place", "MMAP and INIT_SHARED: written and read in place")
def _mmap_in_place(bench: DefaultBench) -> None:
    mapping = bench.mapping(bench.memfd(IN_PLACE))
    bench.touch("write", lambda: mapping.write(0, b"kvmharness"))
    same = mapping.read(0, 10) == b"kvmharness"
    bench.fact("read back", "same" if same else "changed")


@default_scenario("gmem.mmap.without_flag", "a guest_memfd without MMAP")
def _mmap_without_flag(bench: DefaultBench) -> None:
    bench.step("mmap", bench.memfd().try_.mmap())


@default_scenario("gmem.mmap.not_shared", "MMAP without INIT_SHARED: maps, but can't be touched")
def _mmap_not_shared(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd(_MMAP)
    made = bench.step("mmap", guest_memfd.try_.mmap())
    if made.value is not None:
        with made.value as mapping:
            bench.touch("read", lambda: mapping.read(0, 1))
            bench.touch("write", lambda: mapping.write(0, b"x"))


@default_scenario("gmem.mmap.private", "MAP_PRIVATE, and protection NONE and READ")
def _mmap_private(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd(IN_PLACE)
    for label, prot, flags in (
        ("MAP_PRIVATE", PROT_READ, MAP_PRIVATE),
        ("PROT_NONE", 0, MAP_SHARED),
        ("PROT_READ", PROT_READ, MAP_SHARED),
    ):
        made = bench.step(label, guest_memfd.try_.mmap(prot=prot, flags=flags))
        if made.value is not None:
            made.value.close()


@default_scenario("gmem.mmap.past_end", "a mapping longer than the guest_memfd, touched behind it")
def _mmap_past_end(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd(IN_PLACE)
    made = bench.step(
        "mmap", try_mmap(SIZE + PAGE_SIZE, PROT_READ, MAP_SHARED, guest_memfd.fileno())
    )
    if made.value is not None:
        with made.value as mapping:
            bench.touch("the last page", lambda: mapping.read(SIZE - 1, 1))
            bench.touch("behind it", lambda: mapping.read(SIZE, 1))


# ------------------------------------------------------------------ as a file


@default_scenario("gmem.file.operations", "read, write and truncate, which it has not")
def _file_operations(bench: DefaultBench) -> None:
    fd = bench.memfd().fileno()
    bench.call("read", "read", lambda: os.read(fd, 1))
    bench.call("write", "write", lambda: os.write(fd, b"x"))
    bench.call("pread", "pread64", lambda: os.pread(fd, 1, 0))
    bench.call("pwrite", "pwrite64", lambda: os.pwrite(fd, b"x", 0))
    bench.call("ftruncate", "ftruncate", lambda: os.ftruncate(fd, PAGE_SIZE))


@default_scenario("gmem.fallocate.modes", "the modes of fallocate")
def _fallocate_modes(bench: DefaultBench) -> None:
    fallocate = bench.memfd().try_.fallocate
    bench.step("0", fallocate(0, 0, PAGE_SIZE))
    bench.step("KEEP_SIZE", fallocate(FALLOC_FL_KEEP_SIZE, 0, PAGE_SIZE))
    bench.step("PUNCH_HOLE alone", fallocate(FALLOC_FL_PUNCH_HOLE, 0, PAGE_SIZE))
    both = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    bench.step("KEEP_SIZE and PUNCH_HOLE", fallocate(both, 0, PAGE_SIZE))
    for name, bit in (("COLLAPSE_RANGE", 0x08), ("ZERO_RANGE", 0x10)):
        bench.step(name, fallocate(FALLOC_FL_KEEP_SIZE | bit, 0, PAGE_SIZE))


@default_scenario("gmem.fallocate.ranges", "ranges that are unaligned, or end behind the file")
def _fallocate_ranges(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd().try_
    bench.step("allocate, unaligned offset", guest_memfd.allocate(1, PAGE_SIZE))
    bench.step("allocate, unaligned length", guest_memfd.allocate(0, PAGE_SIZE + 1))
    bench.step("allocate behind the end", guest_memfd.allocate(SIZE, PAGE_SIZE))
    bench.step("punch, unaligned offset", guest_memfd.punch_hole(1, PAGE_SIZE))
    bench.step("punch behind the end", guest_memfd.punch_hole(SIZE, PAGE_SIZE))


@default_scenario("gmem.punch.zeros", "a page written, punched, and read again")
def _punch_zeros(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd(IN_PLACE)
    mapping = bench.mapping(guest_memfd)
    mapping.fill(0, SIZE, 0xA5)
    bench.step("punch page 1", guest_memfd.try_.punch_hole(PAGE_SIZE, PAGE_SIZE))
    pages = [mapping.read(page * PAGE_SIZE, PAGE_SIZE) for page in range(PAGES)]
    bench.fact("page 1", "zeros" if not any(pages[1]) else "not zeros")
    others = all(page == b"\xa5" * PAGE_SIZE for page in (pages[0], *pages[2:]))
    bench.fact("the others", "as before" if others else "changed")


@default_scenario("gmem.punch.bound", "holes punched while a slot is bound, and after it is gone")
def _punch_bound(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    bench.bind("bind", guest_memfd)
    bench.step("punch", guest_memfd.try_.punch_hole(0, SIZE))
    bench.bind("delete", guest_memfd, size=0)
    bench.step("punch", guest_memfd.try_.punch_hole(0, SIZE))


# ------------------------------------------------------------------ the end


@default_scenario("gmem.end.mapping_stays", "the guest_memfd and its VM closed, the mapping not")
def _end_mapping(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd(IN_PLACE)
    mapping = bench.mapping(guest_memfd)
    mapping.write(0, b"still here")
    bench.bind("bind", guest_memfd)
    guest_memfd.close(let_go=True)
    bench.vm.close()
    same = mapping.read(0, 10) == b"still here"
    bench.fact("contents", "as before" if same else "changed")
    bench.touch("write", lambda: mapping.write(PAGE_SIZE, b"x"))


@default_scenario("gmem.end.vm_closed_first", "the VM closed first: the fd lives on")
def _end_vm(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    bench.bind("bind", guest_memfd)
    bench.vm.close()
    bench.step("allocate", guest_memfd.try_.allocate(0, SIZE))
    bench.step("punch", guest_memfd.try_.punch_hole(0, SIZE))


# ------------------------------------------------------------------ attributes


@default_scenario(
    "attr.default_vm.absent", "memory attributes on a kernel without", "no_memory_attributes"
)
def _attributes_absent(bench: DefaultBench) -> None:
    bench.step("PRIVATE", bench.vm.try_.set_memory_attributes(GPA, PAGE_SIZE, _PRIVATE))


@default_scenario(
    "attr.default_vm.set", "memory attributes, of which a default VM has none", "memory_attributes"
)
def _attributes(bench: DefaultBench) -> None:
    attributes = bench.vm.try_.set_memory_attributes
    bench.step("PRIVATE", attributes(GPA, PAGE_SIZE, _PRIVATE))
    bench.step("none", attributes(GPA, PAGE_SIZE, 0))


@default_scenario("attr.default_vm.set2", "KVM_SET_MEMORY_ATTRIBUTES2 (queued for 7.4)")
def _attributes2(bench: DefaultBench) -> None:
    guest_memfd = bench.memfd()
    for name, value in (("PRIVATE", _PRIVATE), ("none", 0)):
        bench.step(name, guest_memfd.try_.set_memory_attributes2(0, PAGE_SIZE, value))
