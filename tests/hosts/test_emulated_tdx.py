# SPDX-License-Identifier: MIT
"""An emulated TDX host, really booted: the VM types it has, and what it refuses."""

from __future__ import annotations

import errno
import sys

import pytest

from kvmharness.errors import MissingCapability
from kvmharness.host_kinds import EMULATED
from kvmharness.hosts.emulated import EmulatedHost
from kvmharness.hosts.host import Verdict
from kvmharness.kernels import elf, modulebuild, tdx_build

#: Seconds for one boot and command on a busy machine.
_BOOT = 150.0

pytestmark = pytest.mark.deadline(_BOOT)

# With nothing but the standard library: the VM types, and VMs of types 0, 5 and 4.
_SCRIPT = """
import fcntl, os
kvm = os.open("/dev/kvm", os.O_RDWR)
print("types", hex(fcntl.ioctl(kvm, 0xAE03, 235)))
for vm_type in (0, 5, 4):
    try:
        os.close(fcntl.ioctl(kvm, 0xAE01, vm_type))
        print(vm_type, "ok")
    except OSError as error:
        print(vm_type, error.errno)
"""


@pytest.fixture(scope="session")
def host() -> EmulatedHost:
    """The host, prepared once; a machine that can't have it skips with the reason."""
    try:
        return EmulatedHost.prepare("emulated-tdx", "7.3")
    except MissingCapability as missing:
        pytest.skip(str(missing))


@pytest.mark.deadline(900)
def test_the_host_can_be_prepared(host: EmulatedHost) -> None:
    assert host.facts["kind"] == "emulated-tdx"
    assert host.facts["emulated"] is True
    assert str(host.facts["kernel"]).startswith("7.3")


def test_tds_and_nothing_else_can_be_made(host: EmulatedHost) -> None:
    script = f"{sys.executable} -c '{_SCRIPT}' && dmesg && cat /proc/kvmharness_tdx"
    result = host.run(["sh", "-c", script], timeout=60, smp=2)
    assert result.ok, result.explain() + result.stderr.decode()
    lines = result.stdout.decode().splitlines()
    # The default type is refused here, others by KVM, which does not offer them.
    refused = [f"0 {errno.EOPNOTSUPP}", "5 ok", f"4 {errno.EINVAL}"]
    assert lines[:4] == ["types 0x21", *refused]
    told = [line for line in lines if "a VM of type 0 is refused" in line]
    assert len(told) == 1
    assert "only TD VMs" in told[0]
    assert not [line for line in lines if "BUG" in line or "Oops" in line or "WARNING" in line]
    state = dict(line.split("=", 1) for line in lines if "=" in line and " " not in line)
    pages = {name: count for name, count in state.items() if name.startswith("pages_")}
    owned = {"pages_tdr", "pages_tdcx", "pages_tdvpr", "pages_sept", "pages_reg"}
    assert set(pages) == {*owned, "pages_unflushed", "pages_unreset"}
    assert set(pages.values()) == {"0"}


def test_options_are_added_to_the_kinds_own(host: EmulatedHost) -> None:
    result = host.with_module_options(["kvm_intel.vpid=0"]).run(
        ["cat", "/sys/module/kvm_intel/parameters/tdx", "/sys/module/kvm_intel/parameters/vpid"],
        timeout=60,
    )
    assert result.ok, result.explain() + result.stderr.decode()
    assert result.stdout.split() == [b"Y", b"N"]


def test_kvm_intel_takes_from_the_stand_in_what_its_kernel_lacks(host: EmulatedHost) -> None:
    source = modulebuild.standin(EMULATED["emulated-tdx"])
    built = tdx_build.build_kvm_intel(source, host.kernel)
    assert built == host.built["kvm-intel"]
    depends = elf.Module(built.read_bytes()).depends()
    assert sorted(depends) == ["kvm", "tdx_standin"]


def test_a_module_that_does_not_load_is_a_failed_boot(host: EmulatedHost) -> None:
    result = host.with_module_options(["tdx_standin.leak=banana"]).run(["true"], timeout=60)
    assert result.verdict is Verdict.BOOT_FAILED, result.explain()
    assert "insmod tdx_standin.ko" in result.detail
