# SPDX-License-Identifier: MIT
"""Message-signalled interrupts: one sent by an ioctl, one by an eventfd through a route.

Prints:
    KVM_SIGNAL_MSI: 'm'
    irqfd: 'e'
"""

from __future__ import annotations

import os

from kvmharness import Kvm, VmBuilder
from kvmharness.kvm.irqchip import MsiRoute
from kvmharness.machine.machine import Machine

TO_THE_FIRST_APIC = 0xFEE0_0000
# The second is of a higher priority: the first one's end is not said in between.
FIRST, SECOND = 0x30, 0x41
GSI = 40

MAIN = bytes.fromhex("fb f4 eb fd")  # sti; again: hlt; jmp again


def handler(character: bytes) -> bytes:
    """Write a character to the console, then say "finished" with status 0: KVM_RUN returns."""
    say = b"\xb0" + character + bytes.fromhex("ba f8 03 ee")  # mov al, ..; mov dx, 0x3f8; out
    return say + bytes.fromhex("b0 00 ba 11 05 ee cf")  # mov al, 0; mov dx, 0x511; out; iret


def put_handler(vm: Machine, vector: int, gpa: int, code: bytes) -> None:
    """Place a handler, and its entry in real mode's vector table (IP, CS)."""
    vm.write(gpa, code)
    vm.write(4 * vector, gpa.to_bytes(4, "little"))


def main() -> None:
    """Send both, and run the guest after each."""
    eventfd = os.eventfd(0, os.EFD_CLOEXEC)
    with Kvm.open() as kvm:
        builder = VmBuilder(kvm).memory(0, 1 << 20, "anonymous").irqchip("split")
        with builder.code(MAIN, "real").build() as vm:
            put_handler(vm, FIRST, 0x2000, handler(b"m"))
            put_handler(vm, SECOND, 0x3000, handler(b"e"))
            lapic = vm.vcpus[0].get_lapic()
            lapic.write(0xF0, 0x1FF)  # enabled, as a guest would do
            vm.vcpus[0].set_lapic(lapic)

            vm.signal_msi(TO_THE_FIRST_APIC, FIRST)
            print(f"KVM_SIGNAL_MSI: {vm.run().console!r}")

            vm.set_gsi_routing([MsiRoute(GSI, TO_THE_FIRST_APIC, SECOND)])
            vm.irqfd(eventfd, GSI)
            os.eventfd_write(eventfd, 1)
            print(f"irqfd: {vm.run().console!r}")
    os.close(eventfd)


if __name__ == "__main__":
    main()
