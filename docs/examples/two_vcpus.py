# SPDX-License-Identifier: MIT
"""Two vCPUs, each on a thread: one waits in memory for what the other writes there.

Prints:
    vCPU 1 finished with status 0
    vCPU 0 read 42
"""

from __future__ import annotations

from kvmharness import Kvm, VmBuilder
from kvmharness.kvm.exits import IoExit

SHARED = 0x8000

READER = bytes.fromhex(
    "f3 90"  # wait: pause
    "8b 03"  # mov eax, [rbx]
    "85 c0"  # test eax, eax
    "74 f8"  # jz wait
    "8b 43 08"  # mov eax, [rbx + 8]
    "66 ba 00 07 ef"  # mov dx, 0x700; out dx, eax
    "eb fe"  # jmp .
)
WRITER = bytes.fromhex(
    "c7 43 08 2a 00 00 00"  # mov dword [rbx + 8], 42
    "c7 03 01 00 00 00"  # mov dword [rbx], 1
    "b0 00 66 ba 11 05 ee"  # mov al, 0; mov dx, 0x511; out dx, al: finished, with status 0
    "eb fe"  # jmp .
)


def main() -> None:
    """Start the one that waits, then the other."""
    with Kvm.open() as kvm:
        builder = VmBuilder(kvm).memory(0, 1 << 20, "anonymous")
        builder.code(READER, "long-cpl3", vcpu=0, gpa=0x1000, rbx=SHARED)
        builder.code(WRITER, "long-cpl3", vcpu=1, gpa=0x2000, rbx=SHARED)
        with builder.build() as vm:
            reader, writer = vm.start(vcpu=0), vm.start(vcpu=1)
            print(f"vCPU 1 finished with status {writer.join().status}")
            exit_ = reader.join().exit
            if not isinstance(exit_, IoExit):
                raise SystemExit(f"a number was expected: {exit_}")
            print(f"vCPU 0 read {int.from_bytes(exit_.data, 'little')}")


if __name__ == "__main__":
    main()
