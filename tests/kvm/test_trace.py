# SPDX-License-Identifier: MIT
"""The ioctl trace of a real VM, by KVMHARNESS_TRACE and by recording()."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness import VmBuilder
from kvmharness.kvm import ioctl
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.mapping import PAGE_SIZE

PROGRAM = """
from kvmharness import Kvm, VmBuilder
builder = VmBuilder(Kvm.open()).memory(0, 1 << 20, "anonymous")
with builder.payload("hello").build() as machine:
    machine.run()
    machine.try_.set_user_memory_region(9, 1, 2, 3)
"""


@pytest.mark.scenario("kvm.trace.environment")
@pytest.mark.usefixtures("vm")  # the child needs what makes one
def test_the_environment_variable_traces_a_whole_program(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    environment = dict(os.environ, KVMHARNESS_TRACE=str(trace))
    subprocess.run([sys.executable, "-c", PROGRAM], env=environment, check=True, timeout=60)
    entries = [json.loads(line) for line in trace.read_text().splitlines()]
    names = [entry["ioctl"] for entry in entries]
    assert names.index("KVM_CREATE_VM") < names.index("KVM_CREATE_VCPU") < names.index("KVM_RUN")
    assert names.count("KVM_RUN") == len("hello from guest_memfd\n") + 1
    keys = {"t", "tid", "fd", "ioctl", "before", "after", "ret", "errno", "fw_error", "us"}
    assert all(set(entry) == keys for entry in entries)
    times = [entry["t"] for entry in entries]
    assert times == sorted(times)
    refused = entries[names.index("KVM_SET_USER_MEMORY_REGION", names.index("KVM_RUN"))]
    assert (refused["ret"], refused["errno"]) == (-1, "EINVAL")
    assert refused["before"] == {
        "slot": 9, "flags": 0, "guest_phys_addr": 1, "memory_size": 2, "userspace_addr": 3
    }  # fmt: skip


@pytest.mark.scenario("kvm.trace.recording")
def test_a_recording_holds_what_was_done_meanwhile(vm_builder: Callable[..., VmBuilder]) -> None:
    builder = vm_builder().guest_memfd(0, 1 << 20).payload("hello")
    with ioctl.recording() as entries, builder.build() as machine:
        memfd = machine.slots[0].guest_memfd
        assert memfd is not None
        before = len(entries)
        machine.run()
        memfd.punch_hole(0, PAGE_SIZE)
    made = {entry["ioctl"]: entry for entry in entries[:before]}
    flags = lib.GUEST_MEMFD_FLAG_MMAP | lib.GUEST_MEMFD_FLAG_INIT_SHARED
    assert made["KVM_CREATE_GUEST_MEMFD"]["before"]["size"] == 1 << 20
    assert made["KVM_CREATE_GUEST_MEMFD"]["before"]["flags"] == flags
    region = made["KVM_SET_USER_MEMORY_REGION2"]["after"]
    assert region["guest_memfd"] == made["KVM_CREATE_GUEST_MEMFD"]["ret"]
    assert made["KVM_GET_SREGS"]["after"]["cr0"] != 0
    runs = [entry for entry in entries[before:] if entry["ioctl"] == "KVM_RUN"]
    assert {entry["after"]["exit_reason"] for entry in runs} == {lib.KVM_EXIT_IO}
    last = entries[-1]
    assert last["ioctl"] == "fallocate"
    assert (last["before"]["offset"], last["before"]["size"]) == (0, PAGE_SIZE)
    json.dumps(entries)  # all of it is plain data
    count = len(entries)
    with builder.build():
        assert len(entries) == count  # it is over
