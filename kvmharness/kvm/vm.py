# SPDX-License-Identifier: MIT
"""A VM fd: memory slots, attributes, guest_memfds, vCPUs, interrupts, and the launch ioctl."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.device import Device, device_attr
from kvmharness.kvm.fd import HasFileno, OwnedFd
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.mapping import Mapping
from kvmharness.kvm.result import Result
from kvmharness.kvm.vcpu import Vcpu


class VmTry:
    """The calls a VM fd takes, each giving a Result. Values reach the kernel unchecked."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    # -------------------------------------------------------------- capabilities

    def check_extension(self, capability: int) -> Result[int]:
        """KVM_CHECK_EXTENSION on the VM: like /dev/kvm's, for this VM's type."""
        return ioctl.call(self._vm.fileno(), "KVM_CHECK_EXTENSION", capability)

    def enable_cap(self, capability: int, *args: int, flags: int = 0) -> Result[int]:
        """KVM_ENABLE_CAP: `args` are up to four u64, as the capability defines them."""
        arguments = ffi.new("struct kvm_enable_cap *")
        arguments.cap = capability
        arguments.flags = flags
        for index, value in enumerate(args):
            arguments.args[index] = value
        return ioctl.call(self._vm.fileno(), "KVM_ENABLE_CAP", arguments)

    # -------------------------------------------------------------- vCPUs

    def create_vcpu(self, vcpu_id: int) -> Result[Vcpu]:
        """KVM_CREATE_VCPU: EEXIST if `vcpu_id` is taken, EINVAL past the maximum."""
        result = ioctl.call(self._vm.fileno(), "KVM_CREATE_VCPU", vcpu_id)
        if not result.ok:
            return result.with_value(None)  # type: ignore[arg-type]
        return result.with_value(Vcpu(result.ret, vcpu_id, self._vm.vcpu_mmap_size))

    # -------------------------------------------------------------- memory

    def create_guest_memfd(self, size: int, flags: int = 0) -> Result[GuestMemfd]:
        """KVM_CREATE_GUEST_MEMFD (6.8): `size` in bytes, `flags` GUEST_MEMFD_FLAG_* (6.18).

        EINVAL: size is 0, negative as an loff_t or not a multiple of the page size, or a flag is
        unknown for this VM type (virt/kvm/guest_memfd.c, kvm_gmem_create).
        """
        arguments = ffi.new("struct kvm_create_guest_memfd *")
        arguments.size = size
        arguments.flags = flags
        result = ioctl.call(self._vm.fileno(), "KVM_CREATE_GUEST_MEMFD", arguments)
        if not result.ok:
            return result.with_value(None)  # type: ignore[arg-type]
        # KVM makes this fd, alone among its own, without O_CLOEXEC (seen on 6.18; 7.3's source):
        # a program started from here would inherit it, and keep the memory and the VM alive.
        os.set_inheritable(result.ret, False)
        return result.with_value(GuestMemfd(result.ret, size, flags))

    def set_user_memory_region(
        self, slot: int, gpa: int, size: int, userspace_addr: int, flags: int = 0
    ) -> Result[int]:
        """KVM_SET_USER_MEMORY_REGION: map `size` bytes at `userspace_addr` to `gpa`.

        Size 0 deletes the slot. A slot with a guest_memfd needs the 2 form.
        """
        region = ffi.new("struct kvm_userspace_memory_region *")
        region.slot = slot
        region.flags = flags
        region.guest_phys_addr = gpa
        region.memory_size = size
        region.userspace_addr = userspace_addr
        return ioctl.call(self._vm.fileno(), "KVM_SET_USER_MEMORY_REGION", region)

    def set_user_memory_region2(
        self,
        slot: int,
        gpa: int,
        size: int,
        userspace_addr: int,
        flags: int = 0,
        guest_memfd: HasFileno | int | None = None,
        guest_memfd_offset: int = 0,
    ) -> Result[int]:
        """KVM_SET_USER_MEMORY_REGION2 (6.8): like the first form, with a guest_memfd bound to it.

        `guest_memfd` (an object or a bare number) is used from `guest_memfd_offset` (bytes) and
        takes the flag KVM_MEM_GUEST_MEMFD, which is not added here. EINVAL: the fd is another
        VM's or none, the range is past its end, or the slot exists and would change; overlapping
        bindings are EEXIST on 7.3 and EINVAL on 6.18.
        """
        region = ffi.new("struct kvm_userspace_memory_region2 *")
        region.slot = slot
        region.flags = flags
        region.guest_phys_addr = gpa
        region.memory_size = size
        region.userspace_addr = userspace_addr
        region.guest_memfd_offset = guest_memfd_offset
        if guest_memfd is not None:
            fd = guest_memfd if isinstance(guest_memfd, int) else guest_memfd.fileno()
            region.guest_memfd = fd & 0xFFFFFFFF  # the field is a __u32; -1 is a legal test value
        return ioctl.call(self._vm.fileno(), "KVM_SET_USER_MEMORY_REGION2", region)

    def set_memory_attributes(
        self, gpa: int, size: int, attributes: int, flags: int = 0
    ) -> Result[int]:
        """KVM_SET_MEMORY_ATTRIBUTES (6.8): set `attributes` for `size` bytes from `gpa`.

        ENOTTY where the VM has no attributes (KVM_CAP_MEMORY_ATTRIBUTES 0), EINVAL for an unknown
        attribute, flags, or an unaligned or empty range.
        """
        arguments = ffi.new("struct kvm_memory_attributes *")
        arguments.address = gpa
        arguments.size = size
        arguments.attributes = attributes
        arguments.flags = flags
        return ioctl.call(self._vm.fileno(), "KVM_SET_MEMORY_ATTRIBUTES", arguments)

    def get_dirty_log(self, slot: int, pages: int) -> Result[bytes]:
        """KVM_GET_DIRTY_LOG: the value is the bitmap of `pages` pages, bit 0 the slot's first."""
        bitmap = ffi.new("__u64[]", max((pages + 63) // 64, 1))
        log = ffi.new("struct kvm_dirty_log *")
        log.slot = slot
        log.dirty_bitmap = bitmap
        result = ioctl.call(self._vm.fileno(), "KVM_GET_DIRTY_LOG", log)
        return result.with_value(bytes(ffi.buffer(bitmap)))

    # -------------------------------------------------------------- interrupts and devices

    def create_irqchip(self) -> Result[int]:
        """KVM_CREATE_IRQCHIP: in-kernel PICs, IOAPIC and local APICs."""
        return ioctl.call(self._vm.fileno(), "KVM_CREATE_IRQCHIP")

    def enable_split_irqchip(self, routes: int = 24) -> Result[int]:
        """KVM_ENABLE_CAP of KVM_CAP_SPLIT_IRQCHIP: local APICs alone, `routes` reserved routes."""
        return self.enable_cap(lib.KVM_CAP_SPLIT_IRQCHIP, routes)

    def irq_line(self, irq: int, level: int) -> Result[int]:
        """KVM_IRQ_LINE: set the GSI `irq` to `level` (0 or 1)."""
        line = ffi.new("struct kvm_irq_level *")
        line.irq = irq
        line.level = level
        return ioctl.call(self._vm.fileno(), "KVM_IRQ_LINE", line)

    def signal_msi(self, address: int, data: int) -> Result[int]:
        """KVM_SIGNAL_MSI: deliver one message; the value is 1 if a vCPU took it, 0 if blocked."""
        msi = ffi.new("struct kvm_msi *")
        msi.address_lo = address & 0xFFFFFFFF
        msi.address_hi = address >> 32
        msi.data = data
        return ioctl.call(self._vm.fileno(), "KVM_SIGNAL_MSI", msi)

    def irqfd(self, eventfd: HasFileno | int, gsi: int, flags: int = 0) -> Result[int]:
        """KVM_IRQFD: raise `gsi` on each write to `eventfd`, until KVM_IRQFD_FLAG_DEASSIGN."""
        arguments = ffi.new("struct kvm_irqfd *")
        fd = eventfd if isinstance(eventfd, int) else eventfd.fileno()
        arguments.fd = fd & 0xFFFFFFFF  # the field is a __u32; -1 is a legal test value
        arguments.gsi = gsi
        arguments.flags = flags
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
        arguments = ffi.new("struct kvm_ioeventfd *")
        arguments.fd = eventfd if isinstance(eventfd, int) else eventfd.fileno()
        arguments.addr = address
        arguments.len = length
        arguments.flags = flags
        arguments.datamatch = datamatch
        return ioctl.call(self._vm.fileno(), "KVM_IOEVENTFD", arguments)

    def set_tss_addr(self, gpa: int) -> Result[int]:
        """KVM_SET_TSS_ADDR: three pages Intel hosts without unrestricted guest need."""
        return ioctl.call(self._vm.fileno(), "KVM_SET_TSS_ADDR", gpa)

    def create_device(self, device_type: int, flags: int = 0) -> Result[Device]:
        """KVM_CREATE_DEVICE: `device_type` is KVM_DEV_TYPE_*."""
        arguments = ffi.new("struct kvm_create_device *")
        arguments.type = device_type
        arguments.flags = flags
        result = ioctl.call(self._vm.fileno(), "KVM_CREATE_DEVICE", arguments)
        if not result.ok:
            return result.with_value(None)  # type: ignore[arg-type]
        return result.with_value(Device(int(arguments.fd)))

    def has_device_attr(self, group: int, attr: int) -> Result[int]:
        """KVM_HAS_DEVICE_ATTR on the VM fd: 0, or ENXIO."""
        return device_attr(self._vm, "KVM_HAS_DEVICE_ATTR", group, attr, 0)

    def set_tsc_khz(self, khz: int) -> Result[int]:
        """KVM_SET_TSC_KHZ on the VM (KVM_CAP_VM_TSC_CONTROL): the default for its vCPUs."""
        return ioctl.call(self._vm.fileno(), "KVM_SET_TSC_KHZ", khz)

    def set_msr_filter(self, ranges: Sequence[tuple[int, int, int]], flags: int = 0) -> Result[int]:
        """KVM_X86_SET_MSR_FILTER: deny the MSRs in `ranges`, each (first, count, KVM_MSR_FILTER_*).

        At most KVM_MSR_FILTER_MAX_RANGES (16). With KVM_CAP_X86_USER_SPACE_MSR a denied access
        leaves the guest as a KVM_EXIT_X86_RDMSR or _WRMSR.
        """
        msr_filter = ffi.new("struct kvm_msr_filter *")
        msr_filter.flags = flags
        bitmaps = []  # the kernel reads them during the ioctl
        for index, (first, count, access) in enumerate(ranges):
            bitmap = ffi.new("__u8[]", (count + 7) // 8)
            bitmaps.append(bitmap)
            msr_filter.ranges[index].base = first
            msr_filter.ranges[index].nmsrs = count
            msr_filter.ranges[index].flags = access
            msr_filter.ranges[index].bitmap = bitmap
        return ioctl.call(self._vm.fileno(), "KVM_X86_SET_MSR_FILTER", msr_filter)

    # -------------------------------------------------------------- confidential VMs

    def memory_encrypt_op(self, command: Any, *, show: Any = None, name: str = "") -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP: `command` is a struct kvm_sev_cmd * or kvm_tdx_cmd *.

        ENOTTY on VMs that have no launch commands. The firmware's code is read back after
        success and failure alike. In a trace, `show` is decoded in the command's place and
        `name` is the sub-command's.
        """
        field = "error" if ffi.typeof(command).item.cname == "struct kvm_sev_cmd" else "hw_error"
        return ioctl.call(
            self._vm.fileno(),
            "KVM_MEMORY_ENCRYPT_OP",
            command,
            show=show,
            command=name,
            fw_error=lambda: int(getattr(command, field)),
        )

    def memory_encrypt_region(
        self, address: int, size: int, *, register: bool = True
    ) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_REG_REGION or _UNREG_REGION: pin `size` bytes of user memory (SEV)."""
        region = ffi.new("struct kvm_enc_region *")
        region.addr = address
        region.size = size
        name = "KVM_MEMORY_ENCRYPT_REG_REGION" if register else "KVM_MEMORY_ENCRYPT_UNREG_REGION"
        return ioctl.call(self._vm.fileno(), name, region)


class Vm(OwnedFd):
    """A VM, made by ``Kvm.create_vm``. Its memory lives on while a vCPU or guest_memfd is open."""

    def __init__(self, fd: int, vcpu_mmap_size: int, vm_type: int) -> None:
        super().__init__(fd)
        self.vcpu_mmap_size = vcpu_mmap_size
        self.vm_type = vm_type

    @property
    def try_(self) -> VmTry:
        """The same calls, each giving a Result."""
        return VmTry(self)

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
    set_tsc_khz = raising(VmTry.set_tsc_khz)
    set_msr_filter = raising(VmTry.set_msr_filter)
    memory_encrypt_op = raising(VmTry.memory_encrypt_op)
    memory_encrypt_region = raising(VmTry.memory_encrypt_region)

    def set_private(self, gpa: int, size: int) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES with KVM_MEMORY_ATTRIBUTE_PRIVATE for `size` bytes at `gpa`."""
        self.set_memory_attributes(gpa, size, lib.KVM_MEMORY_ATTRIBUTE_PRIVATE)

    def set_shared(self, gpa: int, size: int) -> None:
        """KVM_SET_MEMORY_ATTRIBUTES with no attribute: `size` bytes at `gpa` become shared."""
        self.set_memory_attributes(gpa, size, 0)

    def bind_mapping(self, slot: int, gpa: int, mapping: Mapping, flags: int = 0) -> None:
        """KVM_SET_USER_MEMORY_REGION of a whole `mapping` at `gpa`."""
        self.set_user_memory_region(slot, gpa, mapping.size, mapping.address, flags)
