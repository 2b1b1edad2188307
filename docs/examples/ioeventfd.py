# SPDX-License-Identifier: MIT
"""A guest rings a doorbell, which the VMM hears by an eventfd: the vCPU does not exit.

Prints:
    the first exit: 8 to port 0x700
    rung without an exit: 2
"""

from __future__ import annotations

import os

from kvmharness import Kvm, VmBuilder
from kvmharness.kvm.exits import IoExit
from kvmharness.kvm.flags import IoeventfdFlag

PORT = 0x700
RING = 7

CODE = bytes.fromhex(
    "ba 00 07"  # mov dx, 0x700
    "b8 07 00"  # mov ax, 7
    "ef ef"  # out dx, ax; twice
    "40"  # inc ax
    "ef"  # out dx, ax: another value, which rings nothing
    "f4"
)


def main() -> None:
    """Listen for one value on a port."""
    eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    with Kvm.open() as kvm:
        builder = VmBuilder(kvm).memory(0, 1 << 20, "anonymous")
        with builder.code(CODE, "real").build() as vm:
            flags = IoeventfdFlag.PIO | IoeventfdFlag.DATAMATCH
            vm.ioeventfd(eventfd, PORT, 2, flags, datamatch=RING)
            exit_ = vm.vcpus[0].run(timeout=5)
            if not isinstance(exit_, IoExit):
                raise SystemExit(f"a write to a port was expected: {exit_}")
            value = int.from_bytes(exit_.data, "little")
            print(f"the first exit: {value} to port {exit_.port:#x}")
            print(f"rung without an exit: {os.eventfd_read(eventfd)}")
    os.close(eventfd)


if __name__ == "__main__":
    main()
