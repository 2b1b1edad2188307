# SPDX-License-Identifier: MIT
"""A VM fd: memory slots, attributes, guest_memfds, vCPUs, interrupts, and the launch ioctl."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from kvmharness.errors import HarnessError
from kvmharness.kvm import ioctl
from kvmharness.kvm.caps import Cap, check_extension, enable_cap
from kvmharness.kvm.clock import VmClockCalls, VmClockTry
from kvmharness.kvm.coalesced import VmCoalescedCalls, VmCoalescedTry
from kvmharness.kvm.device import Device, device_attr
from kvmharness.kvm.dirty import VmDirtyCalls, VmDirtyTry
from kvmharness.kvm.fd import HasFileno, OwnedFd
from kvmharness.kvm.fenced import FencedBuffer
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import fd_number, make, u64
from kvmharness.kvm.fpu import XSAVE_SIZE
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.hyperv import VmHypervCalls, VmHypervTry
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.irqchip import IrqchipCalls, IrqchipTry
from kvmharness.kvm.many import VmManyCalls, VmManyTry
from kvmharness.kvm.mapping import PAGE_SIZE, Mapping, mappings_in
from kvmharness.kvm.memory_encrypt import SevCommand, TdxCommand, memory_encrypt_op
from kvmharness.kvm.memslots import Bindable, Memslots
from kvmharness.kvm.mmu import MmuCalls, MmuTry
from kvmharness.kvm.pmu import PmuCalls, PmuTry
from kvmharness.kvm.result import Result
from kvmharness.kvm.stats import VmStatsCalls, VmStatsTry
from kvmharness.kvm.structs import Struct
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vmtypes import CONFIDENTIAL

#: A GuestMemfd, an fd of another kind, or a bare number.
_Fd = HasFileno | int

_new = object.__new__


class VmTry(
    IrqchipTry,
    VmDirtyTry,
    VmCoalescedTry,
    VmClockTry,
    VmManyTry,
    MmuTry,
    PmuTry,
    VmHypervTry,
    VmStatsTry,
):
    """The calls a VM fd takes, each giving a Result. Values reach the kernel unchecked."""

    _vm: Vm

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    # -------------------------------------------------------------- capabilities

    def check_extension(self, capability: Cap | int) -> Result[int]:
        """KVM_CHECK_EXTENSION on the VM: like /dev/kvm's, for this VM's type."""
        return check_extension(self._vm, capability)

    def enable_cap(self, capability: Cap | int, *args: int, flags: int = 0) -> Result[int]:
        """KVM_ENABLE_CAP: `args` are up to four u64, as the capability defines them."""
        return enable_cap(self._vm, capability, args, flags)

    # -------------------------------------------------------------- vCPUs

    def create_vcpu(self, vcpu_id: int) -> Result[Vcpu]:
        """KVM_CREATE_VCPU: EEXIST if `vcpu_id` is taken, EINVAL past the maximum."""
        xsave_size = self._vm.xsave_size
        result = ioctl.call(self._vm.fileno(), "KVM_CREATE_VCPU", vcpu_id)
        if not result.ok:
            return result.with_value(None)  # type: ignore[arg-type]
        kind: Callable[[int, int, int, Memslots], Vcpu] = Vcpu
        if self._vm.vm_type in CONFIDENTIAL:
            from kvmharness.kvm.no_guest import vcpu_of

            kind = vcpu_of(self._vm.vm_type)
        made = kind(result.ret, vcpu_id, self._vm.vcpu_mmap_size, self._vm.memslots)
        made.xsave_size = xsave_size
        return result.with_value(made)

    # -------------------------------------------------------------- memory

    def create_guest_memfd(self, size: int, flags: int = 0) -> Result[GuestMemfd]:
        """KVM_CREATE_GUEST_MEMFD (6.8): `size` in bytes, `flags` GUEST_MEMFD_FLAG_* (6.18).

        EINVAL: size is 0, negative as an loff_t or not a multiple of the page size, or a flag is
        unknown for this VM type (virt/kvm/guest_memfd.c, kvm_gmem_create).
        """
        arguments = make("struct kvm_create_guest_memfd *", size=size, flags=flags)
        result = ioctl.call(self._vm.fileno(), "KVM_CREATE_GUEST_MEMFD", arguments)
        if not result.ok:
            return result.with_value(None)  # type: ignore[arg-type]
        # KVM makes this fd, alone among its own, without O_CLOEXEC (seen on 6.18; 7.3's source):
        # a program started from here would inherit it, and keep the memory and the VM alive.
        os.set_inheritable(result.ret, False)
        return result.with_value(GuestMemfd(result.ret, size, flags))

    def set_user_memory_region(
        self, slot: int, gpa: int, size: int, userspace_addr: int | Mapping, flags: int = 0
    ) -> Result[int]:
        """KVM_SET_USER_MEMORY_REGION: map `size` bytes at `userspace_addr` to `gpa`.

        The VM holds the Mapping that `userspace_addr` lies in until the slot is deleted, by size 0,
        or replaced. An address in no Mapping is a value like any other, and what becomes of the
        memory there is the caller's affair. A slot with a guest_memfd needs the 2 form.
        """
        region = make(
            "struct kvm_userspace_memory_region *",
            slot=slot,
            flags=flags,
            guest_phys_addr=gpa,
            memory_size=size,
            userspace_addr=_address(userspace_addr),
        )
        return self._set_region("KVM_SET_USER_MEMORY_REGION", region, None)

    def set_user_memory_region2(
        self,
        slot: int,
        gpa: int,
        size: int,
        userspace_addr: int | Mapping,
        flags: int = 0,
        guest_memfd: _Fd | None = None,
        guest_memfd_offset: int = 0,
    ) -> Result[int]:
        """KVM_SET_USER_MEMORY_REGION2 (6.8): like the first form, with a guest_memfd bound to it.

        `guest_memfd` (an object, which the VM holds like the mapping, or a bare number) is used
        from `guest_memfd_offset` (bytes) and
        takes the flag KVM_MEM_GUEST_MEMFD, which is not added here. EINVAL: the fd is another
        VM's or none, the range is past its end, or the slot exists and would change; overlapping
        bindings are EEXIST on 7.3 and EINVAL on 6.18.
        """
        region = make(
            "struct kvm_userspace_memory_region2 *",
            slot=slot,
            flags=flags,
            guest_phys_addr=gpa,
            memory_size=size,
            userspace_addr=_address(userspace_addr),
            guest_memfd_offset=guest_memfd_offset,
            guest_memfd=0 if guest_memfd is None else fd_number("guest_memfd", guest_memfd),
        )
        return self._set_region("KVM_SET_USER_MEMORY_REGION2", region, guest_memfd)

    def _set_region(self, name: str, region: Any, guest_memfd: _Fd | None) -> Result[int]:
        """Set a slot, and hold its memory from before the kernel may use it."""
        size = int(region.memory_size)
        memory: list[Bindable] = []
        if size:
            memory += mappings_in(int(region.userspace_addr), size)
            if isinstance(guest_memfd, Bindable):
                memory.append(guest_memfd)
        slots = self._vm.memslots
        new, old = slots.begin(int(region.slot), int(region.guest_phys_addr), size, memory)
        done = True  # if a signal handler raises, either may be what the kernel has
        try:
            result = ioctl.call(self._vm.fileno(), name, region)
            done = result.ok
        except BaseException:
            old = []
            raise
        finally:
            slots.end(new, old, done)
        return result

    def set_memory_attributes(
        self, gpa: int, size: int, attributes: int, flags: int = 0
    ) -> Result[int]:
        """KVM_SET_MEMORY_ATTRIBUTES (6.8): set `attributes` for `size` bytes from `gpa`.

        ENOTTY where the VM has no attributes (KVM_CAP_MEMORY_ATTRIBUTES 0), EINVAL for an unknown
        attribute, flags, or an unaligned or empty range.
        """
        arguments = make(
            "struct kvm_memory_attributes *",
            address=gpa,
            size=size,
            attributes=attributes,
            flags=flags,
        )
        return ioctl.call(self._vm.fileno(), "KVM_SET_MEMORY_ATTRIBUTES", arguments)

    def get_dirty_log(self, slot: int, pages: int | None = None) -> Result[bytes]:
        """KVM_GET_DIRTY_LOG: the value is the bitmap of the slot's pages, bit 0 the first.

        It has whole 64-bit words, for `pages` pages or for as many as the slot has, if that is
        more: reading clears the log of all of them. `pages` is needed for a slot that was set
        without this VM object; EFAULT then if it has more.
        """
        known = self._vm.memslots.size_of(slot) // PAGE_SIZE
        if pages is None and slot not in self._vm.memslots:
            raise HarnessError(
                f"memslot {slot} was not set through this object: get_dirty_log needs to be told "
                "how many pages it has"
            )
        size = max((max(pages or 0, known) + 63) // 64, 1) * 8
        # The kernel writes as much as its slot has pages, whatever was asked for. Not the heap: a
        # slot may grow between the look above and the call.
        log = make("struct kvm_dirty_log *", slot=slot)
        bitmap = self._vm._take_bitmap(size)
        log.dirty_bitmap = ffi.cast("void *", bitmap.address)
        result = ioctl.call(self._vm.fileno(), "KVM_GET_DIRTY_LOG", log)
        value = bitmap.read() if result.ok else b""
        self._vm._bitmaps.append(bitmap)
        return result.with_value(value)

    # -------------------------------------------------------------- interrupts and devices

    def create_irqchip(self) -> Result[int]:
        """KVM_CREATE_IRQCHIP: in-kernel PICs, IOAPIC and local APICs."""
        return ioctl.call(self._vm.fileno(), "KVM_CREATE_IRQCHIP")

    def enable_split_irqchip(self, routes: int = 24) -> Result[int]:
        """KVM_ENABLE_CAP of KVM_CAP_SPLIT_IRQCHIP: local APICs alone, `routes` reserved routes."""
        return self.enable_cap(lib.KVM_CAP_SPLIT_IRQCHIP, routes)

    def irq_line(self, irq: int, level: int) -> Result[int]:
        """KVM_IRQ_LINE: set the GSI `irq` to `level` (0 or 1)."""
        line = make("struct kvm_irq_level *", irq=irq, level=level)
        return ioctl.call(self._vm.fileno(), "KVM_IRQ_LINE", line)

    def signal_msi(
        self, address: int, data: int, *, devid: int | None = None, flags: int = 0
    ) -> Result[int]:
        """KVM_SIGNAL_MSI: deliver one message; the value is 1 if a vCPU took it, 0 if blocked.

        `devid` adds KVM_MSI_VALID_DEVID, which x86 refuses.
        """
        whole = u64("address", address)
        msi = make(
            "struct kvm_msi *",
            address_lo=whole & 0xFFFFFFFF,
            address_hi=whole >> 32,
            data=data,
            devid=devid or 0,
            flags=flags | (0 if devid is None else lib.KVM_MSI_VALID_DEVID),
        )
        return ioctl.call(self._vm.fileno(), "KVM_SIGNAL_MSI", msi)

    def irqfd(
        self,
        eventfd: HasFileno | int,
        gsi: int,
        flags: int = 0,
        *,
        resample: HasFileno | int | None = None,
    ) -> Result[int]:
        """KVM_IRQFD: raise `gsi` on each write to `eventfd`, until KVM_IRQFD_FLAG_DEASSIGN.

        `gsi` is a pin or, by set_gsi_routing, a message. With `resample` (an eventfd) the line is
        level-triggered, KVM_IRQFD_FLAG_RESAMPLE is added, and each EOI by the guest lowers the
        line and signals `resample`.
        """
        more = 0 if resample is None else lib.KVM_IRQFD_FLAG_RESAMPLE
        arguments = make(
            "struct kvm_irqfd *",
            fd=fd_number("eventfd", eventfd),
            gsi=gsi,
            flags=flags | more,
            resamplefd=0 if resample is None else fd_number("resample", resample),
        )
        return ioctl.call(self._vm.fileno(), "KVM_IRQFD", arguments)

    def ioeventfd(
        self,
        eventfd: HasFileno | int,
        address: int,
        length: int,
        flags: int = 0,
        datamatch: int = 0,
    ) -> Result[int]:
        """KVM_IOEVENTFD: signal `eventfd` for guest writes of `length` bytes at `address`.

        `flags` are KVM_IOEVENTFD_FLAG_*: PIO for a port, DATAMATCH to compare the value.
        """
        arguments = make(
            "struct kvm_ioeventfd *",
            fd=eventfd if isinstance(eventfd, int) else eventfd.fileno(),
            addr=address,
            len=length,
            flags=flags,
            datamatch=datamatch,
        )
        return ioctl.call(self._vm.fileno(), "KVM_IOEVENTFD", arguments)

    def set_tss_addr(self, gpa: int) -> Result[int]:
        """KVM_SET_TSS_ADDR: three pages Intel hosts without unrestricted guest need."""
        return ioctl.call(self._vm.fileno(), "KVM_SET_TSS_ADDR", gpa)

    def create_device(self, device_type: int, flags: int = 0) -> Result[Device]:
        """KVM_CREATE_DEVICE: `device_type` is KVM_DEV_TYPE_*.

        With KVM_CREATE_DEVICE_TEST in `flags` nothing is made: the Device is a closed one.
        """
        no_fd = 0xFFFFFFFF  # what is left there if the kernel makes none
        arguments = make("struct kvm_create_device *", type=device_type, fd=no_fd, flags=flags)
        result = ioctl.call(self._vm.fileno(), "KVM_CREATE_DEVICE", arguments)
        if not result.ok:
            return result.with_value(None)  # type: ignore[arg-type]
        return result.with_value(Device(-1 if arguments.fd == no_fd else int(arguments.fd)))

    def has_device_attr(self, group: int, attr: int) -> Result[int]:
        """KVM_HAS_DEVICE_ATTR on the VM fd: 0, or ENXIO."""
        return device_attr(self._vm, "KVM_HAS_DEVICE_ATTR", group, attr, 0)

    def set_msr_filter(self, ranges: Sequence[tuple[int, int, int]], flags: int = 0) -> Result[int]:
        """KVM_X86_SET_MSR_FILTER: deny the MSRs in `ranges`, each (first, count, KVM_MSR_FILTER_*).

        At most KVM_MSR_FILTER_MAX_RANGES (16). With KVM_CAP_X86_USER_SPACE_MSR a denied access
        leaves the guest as a KVM_EXIT_X86_RDMSR or _WRMSR.
        """
        most = int(lib.KVM_MSR_FILTER_MAX_RANGES)
        if len(ranges) > most:
            raise ValueError(f"ranges: at most {most}, not {len(ranges)}")
        msr_filter = make("struct kvm_msr_filter *", flags=flags)
        bitmaps = []  # the kernel reads them during the ioctl
        for index, (first, count, access) in enumerate(ranges):
            entry = make("struct kvm_msr_filter_range *", base=first, nmsrs=count, flags=access)
            # The kernel reads whole 64-bit words.
            bitmap = ffi.new("__u8[]", (count + 63) // 64 * 8)
            bitmaps.append(bitmap)
            entry.bitmap = bitmap
            msr_filter.ranges[index] = entry[0]
        return ioctl.call(self._vm.fileno(), "KVM_X86_SET_MSR_FILTER", msr_filter)

    # -------------------------------------------------------------- confidential VMs

    def memory_encrypt_op(
        self, command: SevCommand | TdxCommand, *, show: Struct | None = None, name: str = ""
    ) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP: what the VM's type takes of launch commands.

        ENOTTY on VMs that have no launch commands. The firmware's code is read back after
        success and failure alike. In a trace, `show` is decoded in the command's place and
        `name` is the sub-command's. What `command` points to by its data is a value like any other.
        """
        if not isinstance(command, (SevCommand, TdxCommand)):
            kind = type(command).__name__
            raise TypeError(f"a SevCommand or a TdxCommand is required, not {kind}")
        shown = None if show is None else show.pointer
        return memory_encrypt_op(self._vm, command, shown, name)

    def memory_encrypt_region(
        self, address: int, size: int, *, register: bool = True
    ) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_REG_REGION or _UNREG_REGION: pin `size` bytes of user memory (SEV)."""
        region = make("struct kvm_enc_region *", addr=address, size=size)
        name = "KVM_MEMORY_ENCRYPT_REG_REGION" if register else "KVM_MEMORY_ENCRYPT_UNREG_REGION"
        return ioctl.call(self._vm.fileno(), name, region)


class Vm(
    IrqchipCalls,
    VmDirtyCalls,
    VmCoalescedCalls,
    VmClockCalls,
    VmManyCalls,
    MmuCalls,
    PmuCalls,
    VmHypervCalls,
    VmStatsCalls,
    OwnedFd,
):
    """A VM, made by ``Kvm.create_vm``. Its memory lives on while a vCPU or guest_memfd is open.

    ``memslots`` holds what backs the slots, until the VM and its last vCPU are closed.
    """

    def __init__(self, fd: int, vcpu_mmap_size: int, vm_type: int) -> None:
        super().__init__(fd)
        self.vcpu_mmap_size = vcpu_mmap_size
        self.vm_type = vm_type
        self.memslots = Memslots(fd).hold()
        #: For KVM_GET_DIRTY_LOG, used again: mapping one costs more than the call.
        self._bitmaps: list[FencedBuffer] = []

    @functools.cached_property
    def xsave_size(self) -> int:
        """Bytes of a vCPU's XSAVE area (KVM_CAP_XSAVE2), as the first vCPU found it."""
        asked = check_extension(self, Cap.XSAVE2)
        return max(asked.ret, XSAVE_SIZE)

    @property
    def try_(self) -> VmTry:
        """The same calls, each giving a Result."""
        made: VmTry = _new(VmTry)  # not called: that would take twice as long
        made._vm = self
        return made

    check_extension = raising(VmTry.check_extension)
    enable_cap = raising(VmTry.enable_cap)
    create_vcpu = raising(VmTry.create_vcpu)
    create_guest_memfd = raising(VmTry.create_guest_memfd)
    set_user_memory_region = raising(VmTry.set_user_memory_region)
    set_user_memory_region2 = raising(VmTry.set_user_memory_region2)
    set_memory_attributes = raising(VmTry.set_memory_attributes)
    get_dirty_log = raising(VmTry.get_dirty_log)
    create_irqchip = raising(VmTry.create_irqchip)
    enable_split_irqchip = raising(VmTry.enable_split_irqchip)
    irq_line = raising(VmTry.irq_line)
    signal_msi = raising(VmTry.signal_msi)
    irqfd = raising(VmTry.irqfd)
    ioeventfd = raising(VmTry.ioeventfd)
    set_tss_addr = raising(VmTry.set_tss_addr)
    create_device = raising(VmTry.create_device)
    has_device_attr = raising(VmTry.has_device_attr)
    set_msr_filter = raising(VmTry.set_msr_filter)
    memory_encrypt_op = raising(VmTry.memory_encrypt_op)
    memory_encrypt_region = raising(VmTry.memory_encrypt_region)

    def close(self) -> None:
        """Close the fd; closing twice does nothing."""
        was_open = not self.closed
        super().close()
        if was_open:
            self.memslots.release()
            while self._bitmaps:
                self._bitmaps.pop().close()

    def _take_bitmap(self, size: int) -> FencedBuffer:
        """Return a zeroed buffer of `size` bytes that no other thread uses."""
        try:
            bitmap = self._bitmaps.pop()
        except IndexError:
            return FencedBuffer(size)
        if bitmap.size == size:
            bitmap.clear()
            return bitmap
        bitmap.close()
        return FencedBuffer(size)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_fd", -1) >= 0:
            _warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def set_private(self, gpa: int, size: int) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES with KVM_MEMORY_ATTRIBUTE_PRIVATE for `size` bytes at `gpa`."""
        self.set_memory_attributes(gpa, size, lib.KVM_MEMORY_ATTRIBUTE_PRIVATE)

    def set_shared(self, gpa: int, size: int) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES with no attribute: `size` bytes at `gpa` become shared."""
        self.set_memory_attributes(gpa, size, 0)

    def bind_mapping(self, slot: int, gpa: int, mapping: Mapping, flags: int = 0) -> None:
        """KVM_SET_USER_MEMORY_REGION of a whole `mapping` at `gpa`."""
        self.set_user_memory_region(slot, gpa, mapping.size, mapping, flags)


def _address(memory: int | Mapping) -> int:
    return memory.address if isinstance(memory, Mapping) else memory
