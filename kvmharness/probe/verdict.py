# SPDX-License-Identifier: MIT
"""Which paths of the suite would run on a host, judged from the facts that facts.py gathered.

A pure function of facts: what it says about a host can be tested without one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kvmharness import host_kinds


@dataclass(frozen=True)
class Path:
    """One path through KVM that the suite takes; `reason` says why it would run or be skipped."""

    id: str
    state: str
    reason: str


def judge(facts: dict[str, Any]) -> list[dict[str, str]]:
    """Return every path with its state (``run`` or ``skip``) and the reason."""
    judged = [
        _kvm(facts),
        _guest_memfd(facts),
        _mapped(facts),
        _in_place(facts),
        _attributes(facts),
        _pre_fault(facts),
        *(_vm_type(facts, label) for label in ("sw-protected", "sev", "sev-es")),
        _snp(facts),
        _tdx(facts),
        *(_emulated(facts, kind) for kind in host_kinds.EMULATED),
    ]
    return [asdict(path) for path in judged]


def _run(name: str, reason: str) -> Path:
    return Path(name, "run", reason)


def _skip(name: str, reason: str) -> Path:
    return Path(name, "skip", reason)


def _why_no_kvm(facts: dict[str, Any]) -> str | None:
    return None if facts["kvm"]["accessible"] else f"/dev/kvm: {facts['kvm']['reason']}"


def _created(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what is known of each VM type of which a VM could be created."""
    vms: dict[str, dict[str, Any]] = facts["kvm"].get("vms", {})
    return {label: vm for label, vm in vms.items() if vm["created"]}


def _kvm(facts: dict[str, Any]) -> Path:
    if reason := _why_no_kvm(facts):
        return _skip("kvm", reason)
    if "default" in _created(facts):
        return _run("kvm", f"default VMs, API version {facts['kvm']['api_version']}")
    return _skip("kvm", f"no default VM: {facts['kvm']['vms']['default']['reason']}")


def _with_memfd(facts: dict[str, Any], flags: str) -> list[str]:
    """Return the VM types whose guest_memfds with `flags` were created and did what they should."""
    return [
        label for label, vm in _created(facts).items() if vm["guest_memfd"]["tried"][flags]["ok"]
    ]


def _guest_memfd(facts: dict[str, Any]) -> Path:
    name = "kvm.guest_memfd"
    if reason := _why_no_kvm(facts):
        return _skip(name, reason)
    # INIT_SHARED has to be asked for where VMs have no private memory, so either will do.
    labels = _with_memfd(facts, "none") or _with_memfd(facts, "MMAP|INIT_SHARED")
    if labels:
        return _run(name, f"created on {_vms(labels)}")
    if not facts["kvm"]["capabilities"]["KVM_CAP_GUEST_MEMFD"]:
        return _skip(name, "KVM_CAP_GUEST_MEMFD is 0: it takes Linux 6.8 or newer with it built in")
    return _skip(name, "no VM type that is offered here has guest_memfd")


def _mapped(facts: dict[str, Any]) -> Path:
    name = "kvm.guest_memfd.mmap"
    if reason := _why_no_kvm(facts):
        return _skip(name, reason)
    if labels := _with_memfd(facts, "MMAP|INIT_SHARED"):
        return _run(name, f"MMAP and INIT_SHARED: written and read back on {_vms(labels)}")
    if not facts["kvm"]["capabilities"]["KVM_CAP_GUEST_MEMFD_FLAGS"]:
        return _skip(name, "KVM_CAP_GUEST_MEMFD_FLAGS is 0: it takes Linux 6.18 or newer")
    if labels := _with_memfd(facts, "MMAP"):
        return _skip(name, f"MMAP works on {_vms(labels)}, but nothing starts as shared")
    return _skip(name, "no VM type that is offered here can map its guest_memfd")


def _in_place(facts: dict[str, Any]) -> Path:
    cap = "KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES"
    return _by_capability(
        facts,
        "kvm.guest_memfd.in_place",
        cap,
        f"{cap} is 0: in-place conversion is queued for Linux 7.4, or is switched off",
    )


def _attributes(facts: dict[str, Any]) -> Path:
    return _by_capability(
        facts,
        "kvm.attributes",
        "KVM_CAP_MEMORY_ATTRIBUTES",
        "KVM_CAP_MEMORY_ATTRIBUTES is 0: no VM type that is offered here has private memory",
    )


def _pre_fault(facts: dict[str, Any]) -> Path:
    return _by_capability(
        facts,
        "kvm.pre_fault",
        "KVM_CAP_PRE_FAULT_MEMORY",
        "KVM_CAP_PRE_FAULT_MEMORY is 0: it takes Linux 6.11 or newer and two-dimensional paging",
    )


def _by_capability(facts: dict[str, Any], name: str, capability: str, absent: str) -> Path:
    if reason := _why_no_kvm(facts):
        return _skip(name, reason)
    labels = [label for label, vm in _created(facts).items() if vm["capabilities"][capability]]
    return _run(name, f"{capability} on {_vms(labels)}") if labels else _skip(name, absent)


def _vm_type(facts: dict[str, Any], label: str, name: str | None = None) -> Path:
    name = name or label
    if reason := _why_no_kvm(facts):
        return _skip(name, reason)
    if label in _created(facts):
        return _run(name, f"{label} VMs can be created")
    if label in facts["kvm"]["vms"]:
        return _skip(name, facts["kvm"]["vms"][label]["reason"])
    return _skip(name, facts["kvm"]["why_not"][label])


def _snp(facts: dict[str, Any]) -> Path:
    path = _vm_type(facts, "snp", "snp.populate")
    if path.state == "skip" or facts["host"]["emulated"]:
        return path if path.state == "skip" else _run(path.id, _emulated_words(facts))
    device = facts["sev"]["device"]
    if not device["accessible"]:
        # KVM's launch commands reach the firmware through an open /dev/sev.
        return _skip(path.id, device["reason"])
    return path


def _tdx(facts: dict[str, Any]) -> Path:
    path = _vm_type(facts, "tdx", "tdx.populate")
    if path.state == "run" and facts["host"]["emulated"]:
        return _run(path.id, _emulated_words(facts))
    return path


def _emulated_words(facts: dict[str, Any]) -> str:
    return f"on this {facts['host']['kind']} host: not a hardware result"


def _emulated(facts: dict[str, Any], kind: str) -> Path:
    emulation = facts["emulation"]
    if facts["host"]["emulated"]:
        return _skip(kind, "this is an emulated host already")
    if emulation["reason"]:
        return _skip(kind, emulation["reason"])
    kernels: dict[str, str | None] = emulation["kernels"][kind]
    if usable := [release for release, why_not in kernels.items() if why_not is None]:
        return _run(kind, f"kernels in the cache: {', '.join(usable)}")
    if emulation["can_fetch"]:
        return _run(kind, f"a kernel is fetched first: kvmharness host prepare {kind}")
    unusable = [f"{release}: {why_not}" for release, why_not in kernels.items()]
    held = f"no kernel in the cache will do ({'; '.join(unusable)})"
    what = held if unusable else "no kernel is cached"
    return _skip(kind, f"{what}, and there is no apt-get to fetch one with")


def _vms(labels: list[str]) -> str:
    return f"{', '.join(labels)} VMs"
