# SPDX-License-Identifier: MIT
"""Which pages a guest wrote, by the ring that its vCPU fills (KVM_CAP_DIRTY_LOG_RING_ACQ_REL).

Prints:
    written: pages 0, 2, 4, 6 of slot 1
    after the reset, written again: pages 1 of slot 1
"""

from __future__ import annotations

from kvmharness import Kvm, MissingCapability, VmBuilder
from kvmharness.kvm.caps import Cap
from kvmharness.kvm.dirty import DirtyRing
from kvmharness.kvm.exits import HltExit
from kvmharness.kvm.flags import MemFlag
from kvmharness.machine.machine import Machine

PAGE = 4096
RING = PAGE  # bytes: 256 entries
LOGGED_GPA = 0x20_0000
SLOT = 1

CODE = bytes.fromhex(
    "89 0f"  # next: mov [rdi], ecx
    "48 81 c7 00 20 00 00"  # add rdi, 0x2000
    "e2 f5"  # loop next
    "f4"  # hlt
)


def written(vm: Machine, ring: DirtyRing) -> str:
    """Run the guest to its end, and take what is in the ring."""
    exit_ = vm.vcpus[0].run(timeout=5)
    if not isinstance(exit_, HltExit):
        raise SystemExit(f"a halt was expected: {exit_}")
    pages = sorted({page.offset for page in ring.harvest() if page.slot == SLOT})
    vm.reset_dirty_rings()
    return f"pages {', '.join(map(str, pages))} of slot {SLOT}"


def main() -> None:
    """Have the guest write every other page, then one of the rest."""
    with Kvm.open() as kvm:
        if not kvm.check_extension(Cap.DIRTY_LOG_RING_ACQ_REL):
            raise MissingCapability("the dirty ring", "KVM_CAP_DIRTY_LOG_RING_ACQ_REL is 0")
        builder = VmBuilder(kvm).memory(0, 1 << 20, "anonymous")
        builder.memory(LOGGED_GPA, 16 * PAGE, "anonymous", flags=MemFlag.LOG_DIRTY_PAGES)
        builder.before_vcpus(lambda vm: vm.enable_dirty_ring(RING))
        builder.code(CODE, "long", rdi=LOGGED_GPA, rcx=4)
        with builder.build() as vm, vm.vcpus[0].dirty_ring(RING) as ring:
            print(f"written: {written(vm, ring)}")
            vm.enter_code(CODE, "long", rdi=LOGGED_GPA + PAGE, rcx=1)
            print(f"after the reset, written again: {written(vm, ring)}")


if __name__ == "__main__":
    main()
