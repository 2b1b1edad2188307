# SPDX-License-Identifier: MIT
"""A guest in 64-bit mode reads a device's register, inverts it and writes it back.

Prints:
    read 8 bytes at 0xd0000000
    write 8 bytes at 0xd0000008: 0xfedcba9876543210
"""

from __future__ import annotations

from kvmharness import Kvm, VmBuilder
from kvmharness.kvm.exits import HltExit, MmioExit

DEVICE = 0xD000_0000
REGISTER = 0x0123_4567_89AB_CDEF

CODE = bytes.fromhex(
    "48 8b 07"  # mov rax, [rdi]
    "48 f7 d0"  # not rax
    "48 89 47 08"  # mov [rdi + 8], rax
    "f4"  # hlt
)


def main() -> None:
    """Be the device: answer reads, show writes."""
    with Kvm.open() as kvm:
        builder = VmBuilder(kvm).memory(0, 1 << 20, "anonymous")
        with builder.code(CODE, "long", rdi=DEVICE).build() as vm:
            vcpu = vm.vcpus[0]
            while True:
                match vcpu.run(timeout=5):
                    case MmioExit(is_write=False) as access:
                        print(f"read {access.size} bytes at {access.gpa:#x}")
                        vcpu.complete_io(access, REGISTER.to_bytes(8, "little"))
                    case MmioExit() as access:
                        value = int.from_bytes(access.data, "little")
                        print(f"write {access.size} bytes at {access.gpa:#x}: {value:#x}")
                    case HltExit():
                        return
                    case other:
                        raise SystemExit(f"the guest did something else: {other}")


if __name__ == "__main__":
    main()
