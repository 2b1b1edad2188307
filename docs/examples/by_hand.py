# SPDX-License-Identifier: MIT
"""A VM without the builder: memory, CPUID and registers set one by one, each with its type.

Prints:
    5 + 7 = 12
    halted at 0x1005, and cs is flat
"""

from __future__ import annotations

from kvmharness import Kvm, Vcpu
from kvmharness.kvm.cpuid import Cpuid
from kvmharness.kvm.exits import AnyExit, HltExit, IoExit
from kvmharness.kvm.mapping import MAP_ANONYMOUS, MAP_PRIVATE, map_memory
from kvmharness.kvm.registers import Regs
from kvmharness.kvm.run_page import Sync

MEMORY = 1 << 20
CODE_GPA = 0x1000
HYPERVISOR = 1 << 31

CODE = bytes.fromhex(
    "00 d8"  # add al, bl
    "e6 10"  # out 0x10, al
    "f4"  # hlt
)


def hidden_from(cpuid: Cpuid) -> Cpuid:
    """Return `cpuid` without the bit that tells a guest of its hypervisor."""
    return Cpuid(
        entry.replaced(ecx=entry.ecx & ~HYPERVISOR) if entry.function == 1 else entry
        for entry in cpuid
    )


def begin(vcpu: Vcpu) -> None:
    """Set the vCPU up for real mode at CODE_GPA; at reset it is below 4 GiB."""
    sregs = vcpu.get_sregs()
    sregs.cs.base = sregs.cs.selector = 0
    vcpu.set_sregs(sregs)
    vcpu.set_regs(Regs(rip=CODE_GPA, rax=5, rbx=7, rflags=0x2))
    vcpu.kvm_run.kvm_valid_regs = Sync.REGS | Sync.SREGS


def shown(exit_: AnyExit, vcpu: Vcpu) -> str:
    """Say what the guest did. The registers are in the run page: no ioctl asks for them."""
    registers = vcpu.kvm_run.sync
    match exit_:
        case IoExit(is_out=True, port=0x10, data=data):
            return f"5 + 7 = {data[0]}"
        case HltExit():
            flat = "flat" if registers.sregs.cs.base == 0 else "elsewhere"
            return f"halted at {registers.regs.rip:#x}, and cs is {flat}"
        case other:
            raise SystemExit(f"the guest did something else: {other}")


def main() -> None:
    """Run from exit to exit until the guest halts."""
    memory = map_memory(MEMORY, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    with memory, Kvm.open() as kvm, kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        memory.write(CODE_GPA, CODE)
        vm.set_user_memory_region(0, 0, MEMORY, memory)
        vcpu.set_cpuid2(hidden_from(kvm.get_supported_cpuid()))
        begin(vcpu)
        for _ in ("the sum", "the halt"):
            print(shown(vcpu.run(timeout=5), vcpu))


if __name__ == "__main__":
    main()
