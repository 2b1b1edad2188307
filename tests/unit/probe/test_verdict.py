# SPDX-License-Identifier: MIT
"""Which paths run on a host, from facts alone: hosts this machine is not, and why they skip."""

from __future__ import annotations

from typing import Any

import pytest

from kvmharness import host_kinds
from kvmharness.probe import facts, verdict
from kvmharness.report import probe_table

OFFERED = {"ok": True, "result": "created"}
REFUSED = {"ok": False, "result": "EINVAL"}


def vm(tried: Any = (), *, attributes: int = 0, pre_fault: int = 0) -> dict[str, Any]:
    found = {"none": OFFERED, "MMAP": REFUSED, "INIT_SHARED": REFUSED, "MMAP|INIT_SHARED": REFUSED}
    found |= dict(tried)
    capabilities = dict.fromkeys(facts.CAPABILITIES, 0)
    capabilities["KVM_CAP_MEMORY_ATTRIBUTES"] = attributes
    capabilities["KVM_CAP_PRE_FAULT_MEMORY"] = pre_fault
    return {
        "created": True,
        "reason": None,
        "capabilities": capabilities,
        "guest_memfd": {"offered": True, "flags": [], "tried": found},
    }


def host(kind: str = "native", **vms: dict[str, Any]) -> dict[str, Any]:
    labels = ("default", "sw-protected", "sev", "sev-es", "snp", "tdx")
    known = {name.replace("_", "-"): facts for name, facts in vms.items()}
    return {
        "host": {"kind": kind, "emulated": kind != "native", "words": kind},
        "kvm": {
            "accessible": True,
            "reason": None,
            "api_version": 12,
            "capabilities": dict.fromkeys(facts.CAPABILITIES, 1),
            "vms": known,
            "why_not": {name: f"no {name} here" for name in labels if name not in known},
        },
        "sev": {"device": {"accessible": True, "reason": None}},
        "emulation": {
            "reason": None,
            "kernels": {kind: {} for kind in host_kinds.EMULATED},
            "can_fetch": True,
        },
    }


def judged(facts: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {path["id"]: (path["state"], path["reason"]) for path in verdict.judge(facts)}


def test_without_kvm_every_path_skips_with_that_reason() -> None:
    facts = host()
    facts["kvm"] = {"accessible": False, "reason": "permission denied: join the group"}
    found = judged(facts)
    own = {name: path for name, path in found.items() if not name.startswith("emulated")}
    assert set(own.values()) == {("skip", "/dev/kvm: permission denied: join the group")}
    assert len(own) == 11


def test_a_plain_host() -> None:
    shared = {"MMAP": OFFERED, "MMAP|INIT_SHARED": OFFERED}
    found = judged(host(default=vm(shared)))
    states = {name: state for name, (state, _) in found.items()}
    assert states["kvm"] == states["kvm.guest_memfd"] == states["kvm.guest_memfd.mmap"] == "run"
    assert states["kvm.attributes"] == states["kvm.pre_fault"] == states["snp.populate"] == "skip"
    assert found["snp.populate"][1] == "no snp here"
    assert found["sw-protected"][1] == "no sw-protected here"


def test_capabilities_are_judged_by_the_vm_s_not_the_system_s() -> None:
    # A kernel with private memory says 8 on /dev/kvm and 0 on a default VM.
    found = judged(host(default=vm()))
    assert found["kvm.attributes"][0] == "skip"
    found = judged(host(default=vm(), snp=vm(attributes=8)))
    assert found["kvm.attributes"] == ("run", "KVM_CAP_MEMORY_ATTRIBUTES on snp VMs")


def test_an_old_kernel_without_guest_memfd() -> None:
    none = dict.fromkeys(("none", "MMAP", "INIT_SHARED", "MMAP|INIT_SHARED"), REFUSED)
    facts = host(default=vm(none))
    facts["kvm"]["capabilities"] |= {"KVM_CAP_GUEST_MEMFD": 0, "KVM_CAP_GUEST_MEMFD_FLAGS": 0}
    found = judged(facts)
    assert found["kvm.guest_memfd"][0] == "skip"
    assert "6.8" in found["kvm.guest_memfd"][1]
    assert "6.18" in found["kvm.guest_memfd.mmap"][1]


def test_snp_needs_the_firmware_s_device_on_hardware_alone() -> None:
    facts = host(default=vm(), snp=vm(attributes=8))
    assert judged(facts)["snp.populate"] == ("run", "snp VMs can be created")
    facts["sev"]["device"] = {"accessible": False, "reason": "/dev/sev can't be opened: no"}
    assert judged(facts)["snp.populate"] == ("skip", "/dev/sev can't be opened: no")
    facts["host"] = {"kind": "emulated-snp", "emulated": True, "words": ""}
    state, reason = judged(facts)["snp.populate"]
    assert state == "run"
    assert "not a hardware result" in reason


def test_a_vm_that_can_not_be_created_is_a_skip_with_its_errno() -> None:
    facts = host(default=vm(), snp={"created": False, "reason": "KVM_CREATE_VM: EIO"})
    assert judged(facts)["snp.populate"] == ("skip", "KVM_CREATE_VM: EIO")
    facts = host("emulated-tdx", default={"created": False, "reason": "not tried"}, tdx=vm())
    found = judged(facts)
    assert found["kvm"] == ("skip", "no default VM: not tried")
    assert found["tdx.populate"][0] == "run"


@pytest.mark.parametrize(
    ("kernels", "change", "state", "said"),
    [
        ({}, {}, "run", "kvmharness host prepare emulated-snp"),
        ({"6.12.1": None, "6.1": "old", "7.3.4": None}, {}, "run", "cache: 6.12.1, 7.3.4"),
        ({"6.1": "old"}, {}, "run", "kvmharness host prepare emulated-snp"),
        ({}, {"can_fetch": False}, "skip", "no kernel is cached, and there is no apt-get"),
        ({"6.1": "old"}, {"can_fetch": False}, "skip", "will do (6.1: old), and there is no apt"),
        ({}, {"reason": "the cache can't be made", "kernels": {}}, "skip", "the cache can't be"),
    ],
)
def test_an_emulated_host_needs_a_kernel_or_a_way_to_it(
    kernels: dict[str, str | None], change: dict[str, Any], state: str, said: str
) -> None:
    facts = host(default=vm())
    facts["emulation"]["kernels"]["emulated-snp"] = kernels
    facts["emulation"] |= change
    found = judged(facts)["emulated-snp"]
    assert found[0] == state
    assert said in found[1]
    facts["host"] = {"kind": "emulated-snp", "emulated": True, "words": ""}
    assert judged(facts)["emulated-snp"][0] == "skip"


@pytest.mark.parametrize(
    ("vendors", "flags", "expected"),
    [
        ([], "", None),
        (["kvm_pvm"], "", "kvm_pvm"),
        (["kvm_amd", "kvm_intel"], "vmx", "kvm_intel"),
        (["kvm_amd", "kvm_intel"], "svm", "kvm_amd"),
    ],
)
def test_the_vendor_module_in_use(
    monkeypatch: pytest.MonkeyPatch, vendors: list[str], flags: str, expected: str | None
) -> None:
    monkeypatch.setattr(facts, "_cpuinfo", lambda: (frozenset(flags.split()), None, None))
    assert facts._vendor_in_use(vendors) == expected


def test_sizes_are_for_reading() -> None:
    sizes = {4096: "4 KiB", 2 << 20: "2 MiB", 1 << 30: "1 GiB", 25276502016: "23.5 GiB"}
    assert {size: probe_table._bytes(size) for size in sizes} == sizes
