# SPDX-License-Identifier: MIT
"""A guest in 32-bit protected mode adds numbers, tells a device of the VMM's, and notes the sum.

Prints:
    the device at 0xd0000000 was given 5050
    the guest's memory has 5050
"""

from __future__ import annotations

from kvmharness import Kvm, VmBuilder
from kvmharness.kvm.exits import HltExit, MmioExit

NOTE = 0x2000

CODE = bytes.fromhex(
    "31 c0"  # xor eax, eax
    "b9 64 00 00 00"  # mov ecx, 100
    "01 c8"  # next: add eax, ecx
    "e2 fc"  # loop next
    "a3 00 00 00 d0"  # mov [0xd0000000], eax: no memslot is there
    "a3 00 20 00 00"  # mov [NOTE], eax
    "f4"  # hlt
)


def main() -> None:
    """Take what the guest gives to the device, then look into its memory."""
    with Kvm.open() as kvm:
        builder = VmBuilder(kvm).memory(0, 1 << 20, "anonymous")
        with builder.code(CODE, "protected").build() as vm:
            vcpu = vm.vcpus[0]
            given = vcpu.run(timeout=5)
            if not isinstance(given, MmioExit) or not given.is_write:
                raise SystemExit(f"an MMIO write was expected: {given}")
            print(f"the device at {given.gpa:#x} was given {int.from_bytes(given.data, 'little')}")
            halted = vcpu.run(timeout=5)
            if not isinstance(halted, HltExit):
                raise SystemExit(f"a halt was expected: {halted}")
            print(f"the guest's memory has {int.from_bytes(vm.read(NOTE, 4), 'little')}")


if __name__ == "__main__":
    main()
