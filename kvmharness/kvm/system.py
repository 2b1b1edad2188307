# SPDX-License-Identifier: MIT
"""/dev/kvm: what the kernel offers, and the making of VMs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeVar, overload

from kvmharness.errors import MissingCapability
from kvmharness.kvm import ioctl
from kvmharness.kvm.caps import Cap, check_extension
from kvmharness.kvm.cpuid import Cpuid, get_cpuid
from kvmharness.kvm.device import device_attr, get_device_attr_u64
from kvmharness.kvm.fd import OwnedFd
from kvmharness.kvm.features import FeaturesCalls, FeaturesTry
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.vm import Vm
from kvmharness.kvm.vmtypes import VmType

V = TypeVar("V", bound=Vm)

_MSR_INDICES = 1024

_new = object.__new__


class KvmTry(FeaturesTry):
    """The calls /dev/kvm takes, each giving a Result."""

    _kvm: Kvm

    def __init__(self, kvm: Kvm) -> None:
        self._kvm = kvm

    def get_api_version(self) -> Result[int]:
        """KVM_GET_API_VERSION: 12 on every kernel since 2.6.22."""
        return ioctl.call(self._kvm.fileno(), "KVM_GET_API_VERSION")

    def check_extension(self, capability: Cap | int) -> Result[int]:
        """KVM_CHECK_EXTENSION: 0 if `capability` is unknown or off, else its value."""
        return check_extension(self._kvm, capability)

    def get_vcpu_mmap_size(self) -> Result[int]:
        """KVM_GET_VCPU_MMAP_SIZE: bytes to map of a vCPU fd."""
        return ioctl.call(self._kvm.fileno(), "KVM_GET_VCPU_MMAP_SIZE")

    @overload
    def create_vm(self, vm_type: VmType | int | str = ...) -> Result[Vm]: ...

    @overload
    def create_vm(
        self, vm_type: VmType | int | str, kind: Callable[[int, int, int], V]
    ) -> Result[V]: ...

    def create_vm(
        self,
        vm_type: VmType | int | str = VmType.DEFAULT,
        kind: Callable[[int, int, int], V] = Vm,  # type: ignore[assignment]
    ) -> Result[V]:
        """KVM_CREATE_VM: `vm_type` is passed as it is. EINVAL: the host does not offer the type.

        A name (``snp``) is looked up; ValueError, with the names there are, for none of them.
        `kind` makes the object from (fd, bytes to map of a vCPU, vm_type).
        """
        if isinstance(vm_type, str):
            vm_type = VmType.parse(vm_type)
        mmap_size = self._kvm.vcpu_mmap_size  # first: what fails here must not lose a VM's fd
        result = ioctl.call(self._kvm.fileno(), "KVM_CREATE_VM", int(vm_type))
        if not result.ok:
            meaning = self._kvm.why_not_made(vm_type) if result.errno == errno.EINVAL else ""
            failed: Result[V] = result.with_value(None).replaced(meaning=meaning)  # type: ignore[assignment]
            return failed
        return result.with_value(kind(result.ret, mmap_size, int(vm_type)))

    def get_supported_cpuid(self) -> Result[Cpuid]:
        """KVM_GET_SUPPORTED_CPUID: what KVM can give a vCPU, beside what the host happens to be."""
        return get_cpuid(self._kvm, "KVM_GET_SUPPORTED_CPUID")

    def get_emulated_cpuid(self) -> Result[Cpuid]:
        """KVM_GET_EMULATED_CPUID: CPUID features that KVM emulates."""
        return get_cpuid(self._kvm, "KVM_GET_EMULATED_CPUID")

    def get_msr_index_list(self) -> Result[list[int]]:
        """KVM_GET_MSR_INDEX_LIST: the MSRs that KVM_GET_MSRS and KVM_SET_MSRS take."""
        return self._msr_list("KVM_GET_MSR_INDEX_LIST")

    def get_msr_feature_index_list(self) -> Result[list[int]]:
        """KVM_GET_MSR_FEATURE_INDEX_LIST: the feature MSRs that can be read on /dev/kvm."""
        return self._msr_list("KVM_GET_MSR_FEATURE_INDEX_LIST")

    def has_device_attr(self, group: int, attr: int) -> Result[int]:
        """KVM_HAS_DEVICE_ATTR on /dev/kvm (KVM_CAP_SYS_ATTRIBUTES): 0, or ENXIO."""
        return device_attr(self._kvm, "KVM_HAS_DEVICE_ATTR", group, attr, 0)

    def get_device_attr_u64(self, group: int, attr: int) -> Result[int]:
        """KVM_GET_DEVICE_ATTR on /dev/kvm of a u64, such as KVM_X86_GRP_SEV's VMSA features."""
        return get_device_attr_u64(self._kvm, group, attr)

    def _msr_list(self, name: str) -> Result[list[int]]:
        indices = ffi.new("struct kvm_msr_list *", {"indices": _MSR_INDICES})
        indices.nmsrs = _MSR_INDICES
        result = ioctl.call(self._kvm.fileno(), name, indices)
        # After E2BIG nmsrs is what it would take, and not what there is.
        count = min(int(indices.nmsrs), _MSR_INDICES) if result.ok else 0
        return result.with_value([int(indices.indices[i]) for i in range(count)])


class Kvm(FeaturesCalls, OwnedFd):
    """An open /dev/kvm."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._vcpu_mmap_size = 0

    @property
    def try_(self) -> KvmTry:
        """The same calls, each giving a Result."""
        made: KvmTry = _new(KvmTry)  # not called: that would take twice as long
        made._kvm = self
        return made

    @classmethod
    def open(cls, path: str = "/dev/kvm") -> Kvm:
        """Open `path`. Raises MissingCapability with the reason when that is not possible."""
        try:
            return cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise MissingCapability(path, _open_failure(error.errno or 0)) from None

    get_api_version = raising(KvmTry.get_api_version)
    check_extension = raising(KvmTry.check_extension)
    get_vcpu_mmap_size = raising(KvmTry.get_vcpu_mmap_size)
    get_supported_cpuid = raising(KvmTry.get_supported_cpuid)
    get_emulated_cpuid = raising(KvmTry.get_emulated_cpuid)
    get_msr_index_list = raising(KvmTry.get_msr_index_list)
    get_msr_feature_index_list = raising(KvmTry.get_msr_feature_index_list)
    has_device_attr = raising(KvmTry.has_device_attr)
    get_device_attr_u64 = raising(KvmTry.get_device_attr_u64)

    def create_vm(self, vm_type: VmType | int | str = VmType.DEFAULT) -> Vm:
        """KVM_CREATE_VM; raises MissingCapability when the host does not offer the type.

        `vm_type` is a VmType, its name or its number. ValueError, naming the types, for a name that
        none has.
        """
        if isinstance(vm_type, str):
            vm_type = VmType.parse(vm_type)
        try:
            known = VmType(vm_type)
        except ValueError:
            known = None
        if known is not None and known not in self.vm_types():
            raise MissingCapability(f"VM type {known.label}", self.why_no_vm_type(known))
        return made_or_missing(self.try_.create_vm(vm_type), vm_type)

    @property
    def vcpu_mmap_size(self) -> int:
        """Bytes to map of each vCPU fd."""
        if not self._vcpu_mmap_size:
            self._vcpu_mmap_size = self.get_vcpu_mmap_size()
        return self._vcpu_mmap_size

    def vm_types(self) -> frozenset[VmType]:
        """Return the VM types this host offers (KVM_CAP_VM_TYPES; the default one always is)."""
        mask = self.check_extension(lib.KVM_CAP_VM_TYPES) | 1
        return frozenset(vm_type for vm_type in VmType if mask >> vm_type & 1)

    def why_not_made(self, vm_type: VmType | int) -> str:
        """Say why KVM_CREATE_VM refuses the number `vm_type`: no type's, or not offered here."""
        if vm_type in set(VmType):
            return f"VM type {VmType(vm_type).label}: {self.why_no_vm_type(VmType(vm_type))}"
        known = ", ".join(f"{known.label} {int(known)}" for known in VmType)
        return f"no VM type has the number {int(vm_type)}: {known}"

    def why_no_vm_type(self, vm_type: VmType) -> str:
        """Say why this host does not offer `vm_type`, and what would."""
        if not self.check_extension(lib.KVM_CAP_VM_TYPES):
            return "this kernel has no KVM_CAP_VM_TYPES (6.8): it knows the default type alone"
        return {
            VmType.SW_PROTECTED: "it takes a kernel with CONFIG_KVM_SW_PROTECTED_VM and its TDP "
            "MMU in use (kvm.tdp_mmu=Y, nested paging)",
            VmType.SEV: "kvm_amd offers no SEV here: it takes an AMD EPYC with SEV on in the "
            "firmware, and kvm_amd.sev=1",
            VmType.SEV_ES: "kvm_amd offers no SEV-ES here: it takes an AMD EPYC (2nd generation or "
            "newer) and kvm_amd.sev_es=1",
            VmType.SNP: "kvm_amd offers no SEV-SNP here: it takes an AMD EPYC (3rd generation or "
            "newer), SNP and the RMP on in the firmware, and kvm_amd.sev_snp=1",
            VmType.TDX: "kvm_intel offers no TDX here: it takes a TDX-capable Xeon with TDX on in "
            "the firmware, Linux 6.16, and kvm_intel.tdx=1",
        }.get(vm_type, "KVM_CAP_VM_TYPES does not list it")

    def guest_memfd_flags(self) -> int:
        """Return the KVM_CREATE_GUEST_MEMFD flags this host knows.

        KVM_CAP_GUEST_MEMFD_FLAGS; before 6.18 the capability is absent and 0 the only legal value.
        """
        return self.check_extension(lib.KVM_CAP_GUEST_MEMFD_FLAGS)


def made_or_missing(result: Result[V], vm_type: VmType | int) -> V:
    """Return the VM of a KVM_CREATE_VM; MissingCapability where the host offers what it can't make.

    KVM says EOPNOTSUPP never, but the emulated TDX host does: its processor has no VMX for others.
    """
    if result.errno == errno.EOPNOTSUPP:
        label = VmType(vm_type).label
        raise MissingCapability(f"VM type {label}", "the emulated TDX host can make TDs only")
    return result.unwrap()


def _open_failure(number: int) -> str:
    if number in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return (
            "no KVM on this machine: it takes the kvm_intel or kvm_amd module, virtualisation on "
            "in the firmware, and nested virtualisation where this is itself a VM"
        )
    if number in (errno.EACCES, errno.EPERM):
        return "permission denied: run as root, or as a member of the group that owns it (kvm)"
    return os.strerror(number)
