# SPDX-License-Identifier: MIT
"""A guest in real mode writes to a port, byte by byte; the VMM handles each exit.

Prints:
    hello, port 0x3f8
"""

from __future__ import annotations

from kvmharness import Kvm, VmBuilder
from kvmharness.kvm.exits import HltExit, IoExit

CONSOLE = 0x3F8
TEXT = b"hello, port 0x3f8\n\0"

CODE = bytes.fromhex(
    "be 0f 10"  # mov si, text (0x100f)
    "ba f8 03"  # mov dx, 0x3f8
    "ac"  # next: lodsb
    "84 c0"  # test al, al
    "74 03"  # jz done
    "ee"  # out dx, al
    "eb f8"  # jmp next
    "f4"  # done: hlt
)


def main() -> None:
    """Run until the guest halts."""
    with Kvm.open() as kvm:
        builder = VmBuilder(kvm).memory(0, 1 << 20, "anonymous")
        with builder.code(CODE + TEXT, "real", gpa=0x1000).build() as vm:
            while True:
                match vm.vcpus[0].run(timeout=5):
                    case IoExit(is_out=True, port=0x3F8, data=data):
                        print(data.decode(), end="")
                    case HltExit():
                        return
                    case other:
                        raise SystemExit(f"the guest did something else: {other}")


if __name__ == "__main__":
    main()
