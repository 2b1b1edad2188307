# SPDX-License-Identifier: MIT
"""What this host offers, as facts: gathered by asking and trying, judged elsewhere (verdict.py).

Everything here is plain data that JSON can hold. A fact that can't be had is None, with the reason
beside it where a person would ask for one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvmharness import host_kinds, labels
from kvmharness.errors import HarnessError, MissingCapability

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm
    from kvmharness.kvm.vm import Vm
    from kvmharness.kvm.vmtypes import VmType

SCHEMA = "kvmharness.probe/1"

#: Capabilities that a reader of guest_memfd results asks about; each is asked of /dev/kvm and of a
#: VM of each type, because several of them depend on the type.
CAPABILITIES = (
    "KVM_CAP_VM_TYPES",
    "KVM_CAP_USER_MEMORY2",
    "KVM_CAP_GUEST_MEMFD",
    "KVM_CAP_GUEST_MEMFD_FLAGS",
    "KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES",
    "KVM_CAP_MEMORY_ATTRIBUTES",
    "KVM_CAP_MEMORY_FAULT_INFO",
    "KVM_CAP_PRE_FAULT_MEMORY",
    "KVM_CAP_READONLY_MEM",
    "KVM_CAP_SYNC_MMU",
    "KVM_CAP_NR_MEMSLOTS",
    "KVM_CAP_NR_VCPUS",
    "KVM_CAP_MAX_VCPUS",
    "KVM_CAP_IRQCHIP",
    "KVM_CAP_SPLIT_IRQCHIP",
    "KVM_CAP_IRQFD",
    "KVM_CAP_IOEVENTFD",
    "KVM_CAP_IMMEDIATE_EXIT",
    "KVM_CAP_EXIT_HYPERCALL",
    "KVM_CAP_X86_USER_SPACE_MSR",
    "KVM_CAP_X86_MSR_FILTER",
    "KVM_CAP_SYS_ATTRIBUTES",
    "KVM_CAP_VM_GPA_BITS",
)

#: CPU flags that decide about confidential VMs, or say that this is a VM itself.
CPU_FLAGS = (
    "svm",
    "vmx",
    "sme",
    "sev",
    "sev_es",
    "sev_snp",
    "tdx_host_platform",
    "tdx_guest",
    "hypervisor",
)

#: The guest_memfd flags that are tried, besides none.
_MEMFD_FLAGS = {"MMAP": 1, "INIT_SHARED": 2}

_PAGE = 4096


def gather() -> dict[str, Any]:
    """Return all facts about this host. Never raises for want of KVM: the reason is a fact."""
    label = labels.current()
    uname = os.uname()
    return {
        "schema": SCHEMA,
        "host": {"kind": label.kind, "emulated": label.emulated, "words": label.words},
        "kernel": {
            "release": uname.release,
            "version": uname.version,
            "machine": uname.machine,
        },
        "machine": machine_facts(),
        "modules": module_facts(),
        "kvm": kvm_facts(label.kind),
        "sev": sev_facts(),
        "tdx": tdx_facts(),
        "emulation": emulation_facts(),
    }


# ------------------------------------------------------------------ the machine


def machine_facts() -> dict[str, Any]:
    """CPUs, memory, huge pages, NUMA nodes; whether this machine is itself a VM."""
    import psutil

    flags, model, vendor = _cpuinfo()
    memory = psutil.virtual_memory()
    return {
        "cpu_model": model,
        "cpu_vendor": vendor,
        "cpu_flags": {flag: flag in flags for flag in CPU_FLAGS},
        "cpus": psutil.cpu_count(),
        "cpus_usable": len(os.sched_getaffinity(0)),
        "cores": psutil.cpu_count(logical=False),
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "is_vm": "hypervisor" in flags,
        "numa_nodes": _numa_nodes(),
        "hugepages": _hugepages(),
    }


def _cpuinfo() -> tuple[frozenset[str], str | None, str | None]:
    """Return the first processor's flags, model and vendor.

    Read line by line up to the first processor's end: with hundreds of CPUs the whole takes long.
    """
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii") as file:
        for line in file:
            if not line.strip():
                break
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
    return (
        frozenset(fields.get("flags", "").split()),
        fields.get("model name"),
        fields.get("vendor_id"),
    )


def _numa_nodes() -> list[int]:
    """Return the NUMA nodes that have memory."""
    text = _read("/sys/devices/system/node/has_memory") or "0"
    nodes: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        nodes += range(int(first), int(last or first) + 1)
    return nodes


def _hugepages() -> dict[str, dict[str, int]]:
    """Return, by page size in bytes, how many huge pages are reserved and how many of them free."""
    sizes = {}
    for directory in sorted(Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB")):
        size = int(directory.name.removeprefix("hugepages-").removesuffix("kB")) * 1024
        sizes[str(size)] = {
            "total": int(_read(directory / "nr_hugepages") or 0),
            "free": int(_read(directory / "free_hugepages") or 0),
        }
    return sizes


# ------------------------------------------------------------------ modules


def module_facts() -> dict[str, Any]:
    """The vendor module in use, and the parameters of kvm and of every vendor module present."""
    present = sorted(path.name for path in Path("/sys/module").glob("kvm*"))
    vendors = [name for name in present if name.startswith("kvm_")]
    return {
        "vendor": _vendor_in_use(vendors),
        "parameters": {name: _parameters(name) for name in present},
    }


def _vendor_in_use(vendors: list[str]) -> str | None:
    """Return which of the modules drives the CPU: several can be present when they are built in."""
    if len(vendors) < 2:
        return vendors[0] if vendors else None
    holders = [name for name in vendors if Path("/sys/module/kvm/holders", name).exists()]
    if len(holders) == 1:
        return holders[0]
    flags = _cpuinfo()[0]
    for name, flag in (("kvm_intel", "vmx"), ("kvm_amd", "svm")):
        if name in vendors and flag in flags:
            return name
    return vendors[0]


def _parameters(module: str) -> dict[str, str | None]:
    directory = Path("/sys/module", module, "parameters")
    if not directory.is_dir():
        return {}
    return {path.name: _read(path) for path in sorted(directory.iterdir())}


# ------------------------------------------------------------------ /dev/kvm


def kvm_facts(host_kind: str) -> dict[str, Any]:
    """Access to /dev/kvm, and if there is: API version, VM types, capabilities, guest_memfd."""
    facts: dict[str, Any] = {"path": "/dev/kvm", "accessible": False, "reason": None}
    try:
        # Imported late: without a built binding everything else can still be said.
        from kvmharness.kvm.system import Kvm

        kvm = Kvm.open()
    except MissingCapability as error:
        return facts | {"reason": error.reason}
    except ImportError as error:
        return facts | {"reason": f"the binding can't be loaded ({error}); reinstall kvmharness"}
    with kvm:
        return facts | {"accessible": True} | _open_kvm_facts(kvm, host_kind)


def _open_kvm_facts(kvm: Kvm, host_kind: str) -> dict[str, Any]:
    from kvmharness.kvm.ffi import lib
    from kvmharness.kvm.vmtypes import VmType

    types = sorted(kvm.vm_types())
    emulated = host_kinds.EMULATED.get(host_kind)
    safe = None if emulated is None else emulated.serves
    return {
        "api_version": kvm.get_api_version(),
        "vcpu_mmap_bytes": kvm.vcpu_mmap_size,
        "vm_types": [vm_type.label for vm_type in types],
        "why_not": {
            vm_type.label: kvm.why_no_vm_type(vm_type) for vm_type in VmType if vm_type not in types
        },
        "capabilities": {name: kvm.check_extension(getattr(lib, name)) for name in CAPABILITIES},
        "vms": {
            vm_type.label: vm_facts(kvm, vm_type)
            if safe is None or vm_type.label in safe
            else {"created": False, "reason": f"not tried: {host_kind} serves {safe[0]} VMs alone"}
            for vm_type in types
        },
    }


def vm_facts(kvm: Kvm, vm_type: VmType) -> dict[str, Any]:
    """Create one VM of `vm_type` and say what it offers: capabilities, guest_memfds by flags."""
    from kvmharness.kvm.ffi import lib

    result = kvm.try_.create_vm(vm_type)
    if not result.ok:
        return {"created": False, "reason": f"KVM_CREATE_VM: {result.errno_name}"}
    with result.unwrap() as vm:
        return {
            "created": True,
            "reason": None,
            "capabilities": {name: vm.check_extension(getattr(lib, name)) for name in CAPABILITIES},
            "guest_memfd": _guest_memfd_facts(vm),
        }


def _guest_memfd_facts(vm: Vm) -> dict[str, Any]:
    """What became of each combination of flags, and the flags that were seen to work."""
    tried = dict(_guest_memfds(vm))
    working = {flag for name, found in tried.items() if found["ok"] for flag in name.split("|")}
    return {
        "offered": any(found["ok"] for found in tried.values()),
        "flags": [flag for flag in _MEMFD_FLAGS if flag in working],
        "tried": tried,
    }


def _guest_memfds(vm: Vm) -> Iterator[tuple[str, dict[str, Any]]]:
    """Create a one-page guest_memfd with each combination of flags and use what it promises."""
    for name in ("none", "MMAP", "INIT_SHARED", "MMAP|INIT_SHARED"):
        flags = sum(bit for flag, bit in _MEMFD_FLAGS.items() if flag in name.split("|"))
        result = vm.try_.create_guest_memfd(_PAGE, flags)
        if not result.ok:
            yield name, {"ok": False, "result": result.errno_name}
            continue
        with result.unwrap() as memfd:
            proof = "created"
            if "MMAP" in name:
                mapped = memfd.try_.mmap()
                if not mapped.ok:
                    yield name, {"ok": False, "result": f"mmap: {mapped.errno_name}"}
                    continue
                with mapped.unwrap() as mapping:
                    proof = "created and mapped"
                    if "INIT_SHARED" in name:
                        try:
                            mapping.write(0, b"kvmharness")
                            same = mapping.read(0, 10) == b"kvmharness"
                        except HarnessError as error:
                            yield name, {"ok": False, "result": str(error)}
                            continue
                        if not same:
                            yield name, {"ok": False, "result": "reads back other bytes"}
                            continue
                        proof = "created, mapped, written and read back"
            yield name, {"ok": True, "result": proof}


# ------------------------------------------------------------------ confidential VMs


def sev_facts() -> dict[str, Any]:
    """What the kernel and the secure processor's device say about SEV, SEV-ES and SEV-SNP."""
    parameters = _parameters("kvm_amd")
    accessible, reason = device_access("/dev/sev")
    return {
        "module_parameters": {
            name: parameters.get(name) for name in ("sev", "sev_es", "sev_snp", "vmsa_features")
        }
        if parameters
        else None,
        "device": {
            "path": "/dev/sev",
            "present": os.path.exists("/dev/sev"),
            "accessible": accessible,
            "reason": reason,
        },
    }


def tdx_facts() -> dict[str, Any]:
    """What the kernel says about TDX."""
    parameters = _parameters("kvm_intel")
    return {
        "module_parameters": {"tdx": parameters.get("tdx")} if parameters else None,
        "platform": "tdx_host_platform" in _cpuinfo()[0],
        "guest": "tdx_guest" in _cpuinfo()[0],
    }


# ------------------------------------------------------------------ emulated hosts


def emulation_facts() -> dict[str, Any]:
    """Which cached kernels can be booted as which kind of host, and whether more can be fetched.

    By kind and release, why one can't (None: it can). What is not built yet is built on first use.
    """
    import shutil

    from kvmharness.hosts import suitable
    from kvmharness.kernels import kernels

    try:
        cached = kernels.cached()
    except HarnessError as error:
        return {"reason": str(error), "kernels": {}, "can_fetch": False}
    return {
        "reason": None,
        "kernels": {
            name: {kernel.release: suitable.why_not(kind, kernel) for kernel in cached}
            for name, kind in host_kinds.EMULATED.items()
        },
        "can_fetch": all(map(shutil.which, ("apt-get", "apt-cache", "dpkg-deb"))),
    }


def device_access(path: str) -> tuple[bool, str | None]:
    """Open and close a device file; return whether that worked and, if not, why."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except FileNotFoundError:
        return False, f"there is no {path}"
    except OSError as error:
        return False, f"{path} can't be opened: {error.strerror}"
    return True, None


def _read(path: str | Path) -> str | None:
    """Return a small kernel file's text, stripped; None where it can't be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
