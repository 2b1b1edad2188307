# SPDX-License-Identifier: MIT
"""A guest that counts in an XMM register is taken out of one VM and goes on in another.

Prints:
    the first VM counted 1 2 3
    the second goes on with 4 5
    and so does the first: 4 5
"""

from __future__ import annotations

from kvmharness import Kvm, VmBuilder
from kvmharness.kvm.exits import IoExit
from kvmharness.machine.machine import Machine

PORT = 0x700

CODE = bytes.fromhex(
    "66 48 0f 6e c0"  # movq xmm0, rax
    "66 48 0f 6e c9"  # movq xmm1, rcx
    "66 0f d4 c1"  # next: paddq xmm0, xmm1
    "66 48 0f 7e c0"  # movq rax, xmm0
    "ef"  # out dx, eax
    "eb f4"  # jmp next
)


def counted(vm: Machine, times: int) -> str:
    """Run the guest for so many numbers."""
    numbers: list[str] = []
    for _ in range(times):
        exit_ = vm.vcpus[0].run(timeout=5)
        if not isinstance(exit_, IoExit):
            raise SystemExit(f"a number was expected: {exit_}")
        numbers.append(str(int.from_bytes(exit_.data, "little")))
    return " ".join(numbers)


def main() -> None:
    """Count, take the snapshot, and count on in both."""
    with Kvm.open() as kvm:
        builder = VmBuilder(kvm).memory(0, 1 << 20, "anonymous")
        builder.code(CODE, "long-cpl3", rax=0, rcx=1, rdx=PORT)
        with builder.build() as first, builder.build() as second:
            print(f"the first VM counted {counted(first, 3)}")
            second.restore(first.snapshot())
            print(f"the second goes on with {counted(second, 2)}")
            print(f"and so does the first: {counted(first, 2)}")


if __name__ == "__main__":
    main()
