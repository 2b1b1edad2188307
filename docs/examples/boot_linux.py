# SPDX-License-Identifier: MIT
"""Linux boots by its 64-bit boot protocol, until its console has said a text.

    python docs/examples/boot_linux.py VMLINUX [TEXT]

VMLINUX is an uncompressed kernel, an ELF file. Offsets are those of Documentation/arch/x86/boot.rst
and zero-page.rst. There is no root file system: left alone, the kernel panics and resets.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kvmharness import Kvm, VmBuilder
from kvmharness.kvm.exits import IoExit, MmioExit

MIB = 1 << 20
MEMORY = 256 * MIB
ZERO_PAGE, COMMAND_LINE = 0x7000, 0x2_0000
COMMAND = b"earlyprintk=serial,ttyS0,keep panic=-1 reboot=t\0"


def number(data: bytes, at: int, size: int) -> int:
    """Return the little-endian number of `size` bytes at `at`."""
    return int.from_bytes(data[at : at + size], "little")


def segments(elf: bytes) -> list[tuple[int, bytes]]:
    """Return what an ELF file has to load: (gpa, contents)."""
    found: list[tuple[int, bytes]] = []
    for index in range(number(elf, 56, 2)):
        header = number(elf, 32, 8) + index * number(elf, 54, 2)
        if number(elf, header, 4) == 1:  # PT_LOAD
            offset, size = number(elf, header + 8, 8), number(elf, header + 32, 8)
            found.append((number(elf, header + 24, 8), elf[offset : offset + size]))
    return found


def zero_page() -> bytes:
    """Return struct boot_params: a boot loader of no registered type, and the memory there is."""
    page = bytearray(4096)
    page[0x1FE:0x200], page[0x202:0x206] = b"\x55\xaa", b"HdrS"
    page[0x210], page[0x211] = 0xFF, 1  # type_of_loader, loadflags: LOADED_HIGH
    page[0x228:0x22C] = COMMAND_LINE.to_bytes(4, "little")
    usable = [(0, 0x9_FC00), (MIB, MEMORY - MIB)]
    page[0x1E8] = len(usable)  # of the e820 table
    for index, (gpa, size) in enumerate(usable):
        entry = gpa.to_bytes(8, "little") + size.to_bytes(8, "little") + b"\1\0\0\0"
        page[0x2D0 + 20 * index : 0x2E4 + 20 * index] = entry
    return bytes(page)


def main(kernel: bytes, text: bytes) -> None:
    """Be a serial port, and nothing else."""
    entry = number(kernel, 24, 8)
    with Kvm.open() as kvm:
        builder = VmBuilder(kvm).memory(0, MEMORY, "anonymous").irqchip()
        builder.code(COMMAND, "long", gpa=COMMAND_LINE, entry=entry, rsi=ZERO_PAGE)
        with builder.build() as vm:
            vm.write(ZERO_PAGE, zero_page())
            for gpa, contents in segments(kernel):
                vm.write(gpa, contents)
            console = bytearray()
            while text not in console:
                match exit_ := vm.vcpus[0].run(timeout=120):
                    case IoExit(is_out=True):
                        said = exit_.data if exit_.port == 0x3F8 else b""
                        console += said
                        print(said.decode(), end="", flush=True)
                    case IoExit() | MmioExit():  # as of no device; of a serial port: it is ready
                        vm.vcpus[0].complete_io(exit_, b"\xff" * exit_.size)
                    case _:
                        raise SystemExit(f"the kernel's end: {exit_}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_bytes(), (sys.argv[2:] or ["Linux version"])[0].encode())
