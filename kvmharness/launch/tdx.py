# SPDX-License-Identifier: MIT
"""The TDX launch: KVM_TDX_INIT_VM, INIT_VCPU, INIT_MEM_REGION, FINALIZE_VM (Linux 6.16).

One ioctl a method; ``TdxVcpu.populate`` and ``Tdx.capabilities`` are loops around one. Facts are
from Documentation/virt/kvm/x86/intel-tdx.rst and arch/x86/kvm/vmx/tdx.c of 7.3.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import ExitStack
from enum import IntFlag
from typing import TYPE_CHECKING, Any

from kvmharness.errors import KernelFault
from kvmharness.kvm.cpuid import (
    MAX_CPUID_ENTRIES,
    Cpuid,
    CpuidEntry,
    packed_entries,
    read_cpuid,
    write_entries,
)
from kvmharness.kvm.fenced import fenced_copy
from kvmharness.kvm.ffi import ffi, lib
from kvmharness.kvm.fields import Buffer, bytes_up_to, make, make_array, pointer_to, u64
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.memory_encrypt import TdxCommand, memory_encrypt_op
from kvmharness.kvm.result import KvmError, Result
from kvmharness.kvm.structs import Struct, of_type
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.kvm.vm import Vm
from kvmharness.launch.many import populate_many
from kvmharness.launch.source import Source, lent
from kvmharness.launch.tdx_status import status_name
from kvmharness.record import Record

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm

_ADDRESS_SIZES = 0x80000008


class TdAttributes(IntFlag):
    """A TD's attributes (TDX module ABI, "ATTRIBUTES"). KVM 7.3 takes SEPT_VE_DISABLE alone."""

    DEBUG = 1 << 0
    SEPT_VE_DISABLE = 1 << 28
    MIGRATABLE = 1 << 29
    PKS = 1 << 30
    PERFMON = 1 << 63


class TdxInitMemRegion(Struct, kind="kvm_tdx_init_mem_region"):
    """struct kvm_tdx_init_mem_region (KVM_TDX_INIT_MEM_REGION)."""

    source_addr: int = 0
    gpa: int = 0
    nr_pages: int = 0


class TdxCapabilities(Record, frozen=True):
    """What KVM_TDX_CAPABILITIES reports. ``cpuid`` has the configurable bits of each leaf."""

    supported_attrs: int
    supported_xfam: int
    kernel_tdvmcallinfo_1_r11: int
    user_tdvmcallinfo_1_r11: int
    kernel_tdvmcallinfo_1_r12: int
    user_tdvmcallinfo_1_r12: int
    cpuid: Cpuid

    def configure(self, supported: Iterable[CpuidEntry], guest_address_bits: int = 48) -> Cpuid:
        """Return the CPUID for INIT_VM: what is `supported`, cut to the bits that may be set.

        `guest_address_bits` (48 or 52) is passed in the leaf 0x80000008, where KVM looks for it.
        """
        values = {(entry.function, entry.index): entry for entry in supported}
        configured = Cpuid()
        for allowed in self.cpuid:
            key = (allowed.function, allowed.index)
            value = values.get(key, CpuidEntry(*key))
            eax = value.eax & allowed.eax
            if allowed.function == _ADDRESS_SIZES:
                eax = eax & ~0xFF0000 | guest_address_bits << 16
            configured.append(
                CpuidEntry(
                    allowed.function,
                    allowed.index,
                    eax,
                    value.ebx & allowed.ebx,
                    value.ecx & allowed.ecx,
                    value.edx & allowed.edx,
                    value.flags,
                )
            )
        return configured


class TdxTry:
    """The launch commands of a TD's VM fd, each giving a Result. Values reach KVM unchecked."""

    def __init__(self, tdx: Tdx) -> None:
        self._tdx = tdx

    def get_capabilities(self, entries: int = 64, *, flags: int = 0) -> Result[TdxCapabilities]:
        """KVM_TDX_CAPABILITIES into a buffer with room for `entries` CPUID entries.

        E2BIG: too few; how many there are is not told. EINVAL: flags. May be called before INIT_VM.
        """
        capabilities, buffer = _with_cpuid("kvm_tdx_capabilities", entries)
        result = self._command("KVM_TDX_CAPABILITIES", capabilities, flags)
        value = TdxCapabilities(
            int(capabilities.supported_attrs),
            int(capabilities.supported_xfam),
            int(capabilities.kernel_tdvmcallinfo_1_r11),
            int(capabilities.user_tdvmcallinfo_1_r11),
            int(capabilities.kernel_tdvmcallinfo_1_r12),
            int(capabilities.user_tdvmcallinfo_1_r12),
            read_cpuid(capabilities.cpuid, entries if result.ok else 0),
        )
        del buffer  # held until here: the struct is a view of it
        return result.with_value(value)

    def init_vm(
        self,
        *,
        cpuid: Iterable[CpuidEntry],
        attributes: int = 0,
        xfam: int = 0,
        mrconfigid: Buffer = b"",
        mrowner: Buffer = b"",
        mrownerconfig: Buffer = b"",
        reserved: int = 0,
        flags: int = 0,
    ) -> Result[int]:
        """KVM_TDX_INIT_VM: create the TD with a key of its own, and set what can't change later.

        `cpuid` is as ``TdxCapabilities.configure`` gives it: only leaves that the capabilities
        have, 0x80000008 among them. `attributes` and `xfam` lie in what the capabilities support;
        KVM adds what the module requires. The three registers are at most 48 bytes each, padded by
        zeros: reported to whom the TD attests, but no part of MRTD. `reserved` goes into the first
        reserved word, for tests.

        EINVAL: a second time, flags, reserved words, an attribute, xfam or CPUID leaf not
        supported, an address width other than 48 and 52; with a status in ``fw_error``: the module
        refused an operand, which it names. E2BIG: more than 256 entries. ENOSPC: no key left.
        EAGAIN: no entropy. EIO: the module failed otherwise.
        """
        entries = Cpuid(cpuid)
        packed = packed_entries(entries)
        parameters, buffer = _with_cpuid("kvm_tdx_init_vm", len(entries))
        # First by itself, where each value is checked against its field; then before the entries.
        header = make(
            "struct kvm_tdx_init_vm *", attributes=attributes, xfam=xfam, reserved=[reserved]
        )
        for name, data in (
            ("mrconfigid", mrconfigid),
            ("mrowner", mrowner),
            ("mrownerconfig", mrownerconfig),
        ):
            field = ffi.buffer(getattr(header, name))
            field[:] = bytes_up_to(name, data, len(field)).ljust(len(field), b"\0")
        ffi.memmove(parameters, header, ffi.offsetof("struct kvm_tdx_init_vm", "cpuid"))
        write_entries(parameters.cpuid, packed)
        result = self._command("KVM_TDX_INIT_VM", parameters, flags)
        del buffer
        return result

    def finalize_vm(self, *, flags: int = 0, data: int = 0) -> Result[int]:
        """KVM_TDX_FINALIZE_VM: complete MRTD; from now on vCPUs may run, and memory is faulted in.

        EINVAL: before INIT_VM, or a second time. EBUSY: the module was busy. EIO: it failed; then
        the VM is dead and the kernel log has a WARN. `flags` and `data` are documented to be 0 and
        not looked at.
        """
        return self._command("KVM_TDX_FINALIZE_VM", data, flags)

    def command(
        self,
        number: int,
        parameters: Struct | int | None = None,
        *,
        flags: int = 0,
        hw_error: int = 0,
    ) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP on the VM: any sub-command, with the struct it takes, or NULL.

        A number is for a sub-command that takes one, or none that has a method here.
        """
        return _command(self._tdx.vm, number, parameters, flags, hw_error)

    def raw_command(
        self, number: int, data: int, *, flags: int = 0, hw_error: int = 0
    ) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP on the VM: any sub-command, with any address for its parameters.

        For tests of what the kernel does with a bad one: KVM reads and writes what lies there.
        """
        return _issue_raw(self._tdx.vm, number, data, flags, hw_error, None)

    def _command(self, name: str, parameters: Any, flags: int) -> Result[int]:
        return _issue(self._tdx.vm, int(getattr(lib, name)), parameters, flags, 0)


class Tdx:
    """The launch side of a TD's VM. Not an fd of its own: the commands go to the VM fd."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    @property
    def try_(self) -> TdxTry:
        """The same commands, each giving a Result."""
        return TdxTry(self)

    get_capabilities = raising(TdxTry.get_capabilities)
    init_vm = raising(TdxTry.init_vm)
    finalize_vm = raising(TdxTry.finalize_vm)

    def capabilities(self, entries: int = 64) -> TdxCapabilities:
        """Ask KVM_TDX_CAPABILITIES with room for `entries`, then for more until it is enough."""
        while True:
            result = self.try_.get_capabilities(entries)
            if result.errno != errno.E2BIG or entries >= MAX_CPUID_ENTRIES:
                return result.unwrap()
            entries = min(max(2 * entries, 1), MAX_CPUID_ENTRIES)


def start_td(
    vm: Vm,
    kvm: Kvm,
    *,
    guest_address_bits: int = 48,
    tsc_khz: int = 0,
    attributes: int = 0,
    mrconfigid: Buffer = b"",
    mrowner: Buffer = b"",
    mrownerconfig: Buffer = b"",
) -> None:
    """Do what a TD's VM needs before its vCPUs: interrupt controller, TSC, KVM_TDX_INIT_VM.

    Local APICs are in the kernel and the I/O APIC is not (split): the module takes nothing else.
    `tsc_khz` 0 leaves the host's frequency; others are 100 MHz to 10 GHz, cut to 25 MHz. The CPUID
    is what KVM supports, cut to what may be configured.
    """
    tdx = Tdx(vm)
    vm.enable_split_irqchip()
    if tsc_khz:
        vm.set_tsc_khz(tsc_khz)
    tdx.init_vm(
        cpuid=tdx.capabilities().configure(kvm.get_supported_cpuid(), guest_address_bits),
        attributes=attributes,
        mrconfigid=mrconfigid,
        mrowner=mrowner,
        mrownerconfig=mrownerconfig,
    )


#: What INIT_MEM_REGION's errors say.
_REGION_MEANING = {
    errno.EIO: "the first page left was added before, or the TDX module failed on it",
    errno.EINVAL: "before INIT_VCPU or after FINALIZE_VM, or an argument that is not "
    "allowed, or the first page left has no guest_memfd slot or is not private",
}


class TdxVcpuTry:
    """The launch commands of a TD's vCPU fd, each giving a Result. Values reach KVM unchecked."""

    def __init__(self, tdx_vcpu: TdxVcpu) -> None:
        self._vcpu = tdx_vcpu.vcpu

    def init_vcpu(self, rcx: int = 0, *, flags: int = 0) -> Result[int]:
        """KVM_TDX_INIT_VCPU: make the TD's vCPU, whose firmware finds `rcx` in RCX.

        EINVAL: before INIT_VM, after FINALIZE_VM, a second time, flags, or KVM_SET_CPUID2 has not
        given the vCPU x2APIC. EIO: the module failed.
        """
        return self._command("KVM_TDX_INIT_VCPU", rcx, flags)

    def init_mem_region(
        self,
        gpa: int,
        pages: int,
        *,
        source: Source,
        measure: bool = True,
        flags: int | None = None,
        hw_error: int = 0,
    ) -> Result[int]:
        """KVM_TDX_INIT_MEM_REGION: add `pages` pages from `gpa` (bytes) with contents, once.

        `source` is a SourceBuffer, a Mapping, any other buffer, of which the kernel gets a copy
        padded to whole pages, a user address in bytes, or None for NULL. `measure` extends MRTD by
        the contents too (KVM_TDX_MEASURE_MEMORY_REGION), else by the addresses alone; `flags`
        overrides it. ``written_back`` is (gpa, source address, pages) as KVM leaves them, of a
        buffer the offset in it for the address: advanced by what was added, also when the call
        fails. `hw_error` has to be 0, and is not written back.

        EINVAL: before INIT_VCPU, after FINALIZE_VM, flags, an unaligned or NULL source or gpa, no
        pages, a range that wraps or is shared by its gpa, no guest_memfd slot, not private. EFAULT:
        a source that can't be read. EINTR: a signal. EIO: added before, or the module failed.
        """
        bits = lib.KVM_TDX_MEASURE_MEMORY_REGION if measure else 0
        with lent(source) as (address, start):
            region = TdxInitMemRegion(source_addr=address, gpa=gpa, nr_pages=pages)
            result = self._command(
                "KVM_TDX_INIT_MEM_REGION",
                region.pointer,
                bits if flags is None else flags,
                hw_error,
            )
        return result.replaced(
            meaning=_REGION_MEANING.get(result.errno, ""),
            written_back=(region.gpa, region.source_addr - start, region.nr_pages),
        )

    def populate_many(
        self, parts: Iterable[tuple[int, int, Source]], *, measure: bool = True
    ) -> Result[int]:
        """KVM_TDX_INIT_MEM_REGION of each part until nothing of it is left, all in one go.

        A part is (gpa, pages, source), as init_mem_region() takes them. In order, until a call
        fails other than for a signal: what was added before stays so. The value is how many calls
        it took. ``written_back`` is how many parts are done, and of the next one what
        init_mem_region() has: the gpa, the source's address and the pages left. KernelFault when a
        call succeeds without getting anywhere.
        """
        name = "KVM_TDX_INIT_MEM_REGION"
        again = (errno.EINTR, errno.EAGAIN)
        rows, starts = [], []
        with ExitStack() as stack:
            for gpa, pages, source in parts:
                address, start = stack.enter_context(lent(source))
                starts.append(start)
                rows.append({"source_addr": address, "gpa": gpa, "nr_pages": pages})
            structs = make_array("struct kvm_tdx_init_mem_region", rows)
            order = make(
                "struct kvm_tdx_cmd *",
                id=lib.KVM_TDX_INIT_MEM_REGION,
                flags=lib.KVM_TDX_MEASURE_MEMORY_REGION if measure else 0,
            )
            result, done = populate_many(self._vcpu, name, order, structs, "nr_pages", again)
        at = (0, 0, 0)
        if done < len(rows):
            left = structs[done]
            at = (int(left.gpa), int(left.source_addr) - starts[done], int(left.nr_pages))
        status = int(order.hw_error)
        return result.replaced(
            fw_error=status,
            fw_error_name=status_name(status) if status else "",
            meaning=_REGION_MEANING.get(result.errno, ""),
            written_back=(done, *at),
        )

    def get_cpuid(self, entries: int = MAX_CPUID_ENTRIES) -> Result[Cpuid]:
        """KVM_TDX_GET_CPUID: the CPUID that the module shows this TD, into `entries` entries.

        E2BIG: too few; ``written_back`` then has how many it takes. EINVAL: before INIT_VM, after
        FINALIZE_VM. EIO: the module does not tell its highest leaf.
        """
        cpuid = ffi.new("struct kvm_cpuid2 *", {"nent": entries, "entries": entries})
        result = self._command("KVM_TDX_GET_CPUID", cpuid, 0)
        result = result.replaced(written_back=(int(cpuid.nent),))
        return result.with_value(read_cpuid(cpuid, entries if result.ok else 0))

    def command(
        self,
        number: int,
        parameters: Struct | int | None = None,
        *,
        flags: int = 0,
        hw_error: int = 0,
    ) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP on the vCPU: any sub-command, with the struct it takes, or NULL.

        A number is for a sub-command that takes one, or none that has a method here.
        """
        return _command(self._vcpu, number, parameters, flags, hw_error)

    def raw_command(
        self, number: int, data: int, *, flags: int = 0, hw_error: int = 0
    ) -> Result[int]:
        """KVM_MEMORY_ENCRYPT_OP on the vCPU: any sub-command, any address for its parameters.

        For tests of what the kernel does with a bad one: KVM reads and writes what lies there.
        """
        return _issue_raw(self._vcpu, number, data, flags, hw_error, None)

    def _command(self, name: str, parameters: Any, flags: int, hw_error: int = 0) -> Result[int]:
        return _issue(self._vcpu, int(getattr(lib, name)), parameters, flags, hw_error)


class TdxVcpu:
    """The launch side of a TD's vCPU; memory is added through one, since KVM maps it there."""

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu

    @property
    def try_(self) -> TdxVcpuTry:
        """The same commands, each giving a Result."""
        return TdxVcpuTry(self)

    init_vcpu = raising(TdxVcpuTry.init_vcpu)
    init_mem_region = raising(TdxVcpuTry.init_mem_region)
    populate_many = raising(TdxVcpuTry.populate_many)
    get_cpuid = raising(TdxVcpuTry.get_cpuid)

    def set_cpuid_of_td(self) -> None:
        """KVM_SET_CPUID2 of what KVM_TDX_GET_CPUID says, so that KVM and the module agree.

        To be done before INIT_VCPU, which looks for x2APIC in it.
        """
        self.vcpu.set_cpuid2(self.get_cpuid())

    def populate(
        self,
        gpa: int,
        pages: int,
        *,
        source: Source,
        measure: bool = True,
    ) -> int:
        """INIT_MEM_REGION until `pages` pages from `gpa` (bytes) are added; returns the calls.

        Goes on from the progress written back when a signal stopped a call. KvmError for any other
        failure: its ``result.written_back`` is where it stopped, and what was added stays so.
        KernelFault when a call succeeds with pages left, which a kernel must not do.
        """
        calls = 0
        with lent(source) as (address, _):
            while pages:
                result = self.try_.init_mem_region(gpa, pages, source=address, measure=measure)
                calls += 1
                before = pages
                gpa, address, pages = result.written_back or (gpa, address, pages)
                if result.errno not in (0, errno.EINTR, errno.EAGAIN):
                    raise KvmError(result)
                if result.ok and pages:
                    raise KernelFault(
                        f"INIT_MEM_REGION returned 0 with {pages} of {before} pages left at "
                        f"{gpa:#x}"
                    )
        return calls


def _with_cpuid(name: str, entries: int) -> tuple[Any, Any]:
    """Return a zeroed struct that ends in a kvm_cpuid2 of `entries` entries, and its memory."""
    make("struct kvm_cpuid2 *", nent=entries)  # refuses what no nent can be
    size = ffi.sizeof(f"struct {name}") + entries * ffi.sizeof("struct kvm_cpuid_entry2")
    buffer = ffi.new("char[]", size)
    made = ffi.cast(f"struct {name} *", buffer)
    made.cpuid.nent = entries
    return made, buffer


#: Sub-commands of KVM_MEMORY_ENCRYPT_OP on TDs and their vCPUs, and the struct that each takes.
_STRUCTS = {
    "KVM_TDX_CAPABILITIES": "kvm_tdx_capabilities",
    "KVM_TDX_INIT_VM": "kvm_tdx_init_vm",
    "KVM_TDX_INIT_VCPU": None,  # a number
    "KVM_TDX_INIT_MEM_REGION": "kvm_tdx_init_mem_region",
    "KVM_TDX_FINALIZE_VM": None,  # a number that nobody looks at
    "KVM_TDX_GET_CPUID": "kvm_cpuid2",
}
_COMMAND_NAMES = {int(getattr(lib, name)): name for name in _STRUCTS}
_TAKES = {
    int(getattr(lib, name)): pointer_to(struct) for name, struct in _STRUCTS.items() if struct
}


def _command(
    target: Vm | Vcpu,
    number: int,
    parameters: Struct | int | None,
    flags: int,
    hw_error: int,
) -> Result[int]:
    if parameters is None or isinstance(parameters, int):
        return _issue(target, number, parameters, flags, hw_error)
    return _issue(target, number, of_type(Struct, parameters), flags, hw_error)


def _issue(
    target: Vm | Vcpu, number: int, parameters: Any, flags: int, hw_error: int
) -> Result[int]:
    if parameters is None:
        return _issue_raw(target, number, 0, flags, hw_error, None)
    if number in _TAKES:
        address = int(ffi.cast("uintptr_t", _TAKES[number](parameters)))
        return _issue_raw(target, number, address, flags, hw_error, parameters)
    if isinstance(parameters, int):
        return _issue_raw(target, number, parameters, flags, hw_error, None)
    with fenced_copy(parameters) as copy:  # how much of it KVM takes is not known here
        return _issue_raw(target, number, copy, flags, hw_error, parameters)


def _issue_raw(
    target: Vm | Vcpu, number: int, data: int, flags: int, hw_error: int, show: Any
) -> Result[int]:
    command = TdxCommand(id=number, flags=flags, data=u64("data", data), hw_error=hw_error)
    name = _COMMAND_NAMES.get(number, "")
    shown = command.pointer if show is None else show
    result = memory_encrypt_op(target, command, shown, name or str(number))
    # What was passed in and left there is nothing that the module said.
    status = 0 if result.fw_error == hw_error else result.fw_error or 0
    return result.replaced(
        name=name or result.name,
        fw_error=status,
        fw_error_name=status_name(status) if status else "",
    )
