# SPDX-License-Identifier: MIT
"""A halted guest is woken by an eventfd, from another thread than the one that runs it.

Prints:
    the guest said '!' and finished with status 0
"""

from __future__ import annotations

import os

from kvmharness import Kvm, VmBuilder

LINE = 5  # of the first PIC, whose vectors begin at 0 after reset
CODE_GPA, HANDLER_GPA = 0x1000, 0x1100

# Ports 0x3f8 and 0x511 are what Machine.run understands: the console, and "finished" with a status.
MAIN = bytes.fromhex(
    "fb f4"  # sti; hlt
    "b0 00 ba 11 05 ee"  # mov al, 0; mov dx, 0x511; out dx, al
    "f4"
)
HANDLER = bytes.fromhex(
    "b0 21 ba f8 03 ee"  # mov al, '!'; mov dx, 0x3f8; out dx, al
    "b0 20 e6 20"  # mov al, 0x20; out 0x20, al: end of interrupt, to KVM's own PIC
    "cf"  # iret
)


def main() -> None:
    """Run the guest on a thread, and wake it from this one."""
    eventfd = os.eventfd(0, os.EFD_CLOEXEC)
    with Kvm.open() as kvm:
        builder = VmBuilder(kvm).memory(0, 1 << 20, "anonymous").irqchip()
        with builder.code(MAIN, "real", gpa=CODE_GPA).build() as vm:
            vm.write(HANDLER_GPA, HANDLER)
            vm.write(4 * LINE, HANDLER_GPA.to_bytes(4, "little"))  # the vector table: IP, CS
            vm.irqfd(eventfd, LINE)
            thread = vm.start(timeout=5)
            os.eventfd_write(eventfd, 1)
            run = thread.join()
            print(f"the guest said {run.console!r} and finished with status {run.status}")
    os.close(eventfd)


if __name__ == "__main__":
    main()
