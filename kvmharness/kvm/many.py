# SPDX-License-Identifier: MIT
"""Ioctls in numbers: an array of structs goes down in one go, without the interpreter in between.

A trace has one entry for each go: how many there were to do, the first of them, how many were done.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import ffi
from kvmharness.kvm.fields import fd_number, make_array
from kvmharness.kvm.ioctl import brief, raising
from kvmharness.kvm.mapping import Mapping, mappings_in
from kvmharness.kvm.memslots import Bindable, Memslots
from kvmharness.kvm.result import Result


def call_many(fd: int, name: str, structs: Any, count: int | None = None) -> Result[int]:
    """Issue the ioctl called `name` with each of `structs`, a C array, until one fails.

    `count` of them, if it is given: past the last struct it begins again at the first. The value is
    how many were done; ``written_back`` is (that,), also after a failure, whose errno is that of
    the one after them. A signal's handler runs in between. TypeError if the structs don't fit.
    """
    distinct = len(structs)
    wanted = distinct if count is None else count
    if not distinct or wanted <= 0:
        return Result(name, 0, 0, 0, None, (0,))
    done = ffi.new("uint64_t *")
    ret = 0
    while ret == 0 and done[0] < wanted:
        ret = ioctl.many(fd, name, structs, wanted, done)
    made = int(done[0])
    if ret == 0:
        return Result(name, made, 0, made, None, (made,))
    which = brief(ffi.addressof(structs, made % distinct))
    said = f"{which}; {made} of {wanted} before it were done"
    return Result(name, -1, -ret, None, None, (made,), arguments=said)


class VmManyTry:
    """The calls of a VM that do many ioctls in one go, each giving a Result."""

    _vm: Any

    def set_memory_attributes_many(
        self, ranges: Iterable[tuple[int, int, int]], flags: int = 0
    ) -> Result[int]:
        """KVM_SET_MEMORY_ATTRIBUTES (6.8) for each range (gpa, size, attributes), in bytes.

        In order, until one fails. The value, and ``written_back``'s only number, is how many were
        set; the errno is that of the next. Errors are set_memory_attributes()'s.
        """
        rows = [
            {"address": gpa, "size": size, "attributes": attributes, "flags": flags}
            for gpa, size, attributes in ranges
        ]
        structs = make_array("struct kvm_memory_attributes", rows)
        return call_many(self._vm.fileno(), "KVM_SET_MEMORY_ATTRIBUTES", structs)

    def churn_memslot(
        self,
        slot: int,
        gpa: int,
        size: int,
        userspace_addr: int | Mapping,
        times: int,
        flags: int = 0,
        guest_memfd: HasFileno | int | None = None,
        guest_memfd_offset: int = 0,
    ) -> Result[int]:
        """KVM_SET_USER_MEMORY_REGION: set `slot`, delete it by size 0, and again, `times` in all.

        With a `guest_memfd` it is the 2 form (6.8), whose flags are not added here. Ends at the
        first failure. The value, and ``written_back``'s only number, counts the ioctls that were
        done, two each time: after an odd number the slot is set, and the VM holds its memory as
        set_user_memory_region() says.
        """
        address = userspace_addr if isinstance(userspace_addr, int) else userspace_addr.address
        row = {
            "slot": slot,
            "flags": flags,
            "guest_phys_addr": gpa,
            "memory_size": size,
            "userspace_addr": address,
        }
        name = "KVM_SET_USER_MEMORY_REGION"
        if guest_memfd is not None:
            name += "2"
            row["guest_memfd"] = fd_number("guest_memfd", guest_memfd)
            row["guest_memfd_offset"] = guest_memfd_offset
        kind = ffi.typeof(f"struct kvm_userspace_memory_region{'2' * (guest_memfd is not None)}")
        structs = make_array(kind.cname, [row, row | {"memory_size": 0}])
        memory: list[Bindable] = []
        if size:
            memory += mappings_in(int(structs[0].userspace_addr), size)
            if isinstance(guest_memfd, Bindable):
                memory.append(guest_memfd)
        slots: Memslots = self._vm.memslots
        new, old = slots.begin(int(structs[0].slot), gpa, size, memory)
        done = 1  # if a signal handler raises, either may be what the kernel has
        try:
            result = call_many(self._vm.fileno(), name, structs, 2 * times)
            done = result.written_back[0] if result.written_back else 0
        except BaseException:
            old = []
            raise
        finally:
            slots.end(new, old, done > 0)
            if done and not done % 2:
                slots.end(*slots.begin(new.slot, gpa, 0, ()), True)
        return result


class VmManyCalls:
    """The raising forms of VmManyTry."""

    set_memory_attributes_many = raising(VmManyTry.set_memory_attributes_many)
    churn_memslot = raising(VmManyTry.churn_memslot)
