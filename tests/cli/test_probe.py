# SPDX-License-Identifier: MIT
"""``kvmharness probe``: what it says agrees with the kernel, with and without /dev/kvm."""

from __future__ import annotations

import errno
import json
import os
import time
from typing import Any

import pytest

from kvmharness import Kvm, VmType

from .command import kvmharness


def probe(kvm_errno: int = 0, host: str = "") -> dict[str, Any]:
    ended = kvmharness("probe", "--json", kvm_errno=kvm_errno, KVMHARNESS_HOST=host)
    assert (ended.status, ended.err) == (0, "")
    facts: dict[str, Any] = json.loads(ended.out)
    return facts


def states(facts: dict[str, Any]) -> dict[str, str]:
    return {path["id"]: path["state"] for path in facts["paths"]}


def test_json_is_one_object_with_its_schema() -> None:
    facts = probe()
    assert facts["schema"] == "kvmharness.probe/1"
    assert facts["kernel"]["release"] == os.uname().release
    assert facts["machine"]["cpus"] == os.cpu_count()
    assert facts["machine"]["memory_bytes"] > 0
    assert all(path["reason"] for path in facts["paths"])


def test_it_says_what_the_kernel_says(kvm: Kvm) -> None:
    facts = probe()
    assert facts["kvm"]["accessible"]
    assert facts["kvm"]["vm_types"] == [vm_type.label for vm_type in sorted(kvm.vm_types())]
    assert facts["kvm"]["capabilities"]["KVM_CAP_GUEST_MEMFD"] == kvm.check_extension(234)
    assert states(facts)["kvm"] == "run"
    for vm_type in VmType:
        offered = vm_type in kvm.vm_types()
        assert (vm_type.label in facts["kvm"]["vms"]) == offered
        assert (vm_type.label in facts["kvm"]["why_not"]) == (not offered)


def test_guest_memfd_flags_are_proven_not_believed(kvm: Kvm) -> None:
    with kvm.create_vm() as vm:
        made = {flags: vm.try_.create_guest_memfd(4096, flags) for flags in (0, 1, 3)}
    tried = probe()["kvm"]["vms"]["default"]["guest_memfd"]["tried"]
    for flags, name in ((0, "none"), (1, "MMAP"), (3, "MMAP|INIT_SHARED")):
        assert tried[name]["ok"] == made[flags].ok
        if made[flags].ok:
            made[flags].unwrap().close()


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.ENOENT, "no KVM on this machine"), (errno.EACCES, "permission")]
)
def test_without_kvm_the_rest_is_still_told(number: int, reason: str) -> None:
    facts = probe(kvm_errno=number)
    assert not facts["kvm"]["accessible"]
    assert reason in facts["kvm"]["reason"]
    assert facts["machine"]["cpu_model"]
    of_kvm = {s for name, s in states(facts).items() if not name.startswith("emulated")}
    assert of_kvm == {"skip"}
    table = kvmharness("probe", kvm_errno=number)
    assert table.status == 0
    assert reason in table.out


def test_on_an_emulated_tdx_host_no_default_vm_is_made() -> None:
    facts = probe(host="emulated-tdx")
    assert facts["host"]["emulated"]
    if facts["kvm"]["accessible"]:
        assert not facts["kvm"]["vms"]["default"]["created"]
        assert "not tried" in facts["kvm"]["vms"]["default"]["reason"]


def test_the_table_fits_a_terminal_and_shows_every_path() -> None:
    ended = kvmharness("probe", COLUMNS="80")
    assert ended.status == 0
    assert max(map(len, ended.out.splitlines())) <= 80
    for path in probe()["paths"]:
        assert any(line.startswith(f"{path['id']} ") for line in ended.out.splitlines())


def test_it_is_quick() -> None:
    took = []
    for _ in range(3):
        began = time.monotonic()
        kvmharness("probe")
        took.append(time.monotonic() - began)
    # Alone it takes 0.2 s; the rest is for a machine that does other things meanwhile.
    assert min(took) < 0.5
