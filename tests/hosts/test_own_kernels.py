# SPDX-License-Identifier: MIT
"""Kernels that kvmharness kernel build made, really booted: one image is every kind of host."""

from __future__ import annotations

import sys

import pytest

from kvmharness.errors import MissingCapability
from kvmharness.hosts.emulated import EmulatedHost
from kvmharness.kernels import own_build
from kvmharness.kernels.kernels import Kernel

#: Seconds for one boot of a kernel that watches itself, and a command, on a busy machine.
_BOOT = 400.0

pytestmark = pytest.mark.deadline(_BOOT)

# KVM_CHECK_EXTENSION of KVM_CAP_VM_TYPES, with nothing but the standard library.
_VM_TYPES = 'import fcntl, os; print(fcntl.ioctl(os.open("/dev/kvm", os.O_RDWR), 0xAE03, 235))'
_SW_PROTECTED, _SNP, _TDX = 1 << 1, 1 << 4, 1 << 5


@pytest.fixture(scope="session", params=own_build.VARIANTS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    """A kernel of each variant that is in the cache: none is built for a test."""
    for built in own_build.cached():
        if built.label.endswith(f":{request.param}"):
            return built
    pytest.skip(f"not built: kvmharness kernel build --variant {request.param}")


@pytest.mark.parametrize(
    ("kind", "offered"), [("emulated-snp", _SW_PROTECTED | _SNP), ("emulated-tdx", _TDX)]
)
def test_one_image_is_every_kind_of_host(kernel: Kernel, kind: str, offered: int) -> None:
    try:
        host = EmulatedHost.prepare(kind, kernel)
    except MissingCapability as missing:
        pytest.skip(str(missing))
    assert host.facts["rebuilt"] == []  # kvm-intel.ko, too, is the kernel's own
    script = f"{sys.executable} -c '{_VM_TYPES}' && dmesg"
    result = host.run(["sh", "-c", script], timeout=_BOOT / 2, smp=2)
    assert result.ok, result.explain() + result.stderr.decode()
    types, *log = result.stdout.decode().splitlines()
    assert int(types) & offered == offered
    assert not [line for line in log if "BUG" in line or "WARNING" in line or "KASAN:" in line]
