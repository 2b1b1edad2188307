# SPDX-License-Identifier: MIT
"""Debugging a guest: its debug registers, and the host's breakpoints and single steps."""

from __future__ import annotations

from collections.abc import Iterable, MutableSequence
from enum import IntEnum, IntFlag

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct, array, get, inside, of_type, put
from kvmharness.record import Record


class GuestDebugFlag(IntFlag):
    """KVM_GUESTDBG_*: what struct kvm_guest_debug asks for."""

    ENABLE = 0x1
    SINGLESTEP = 0x2
    USE_SW_BP = 0x10000
    USE_HW_BP = 0x20000
    INJECT_DB = 0x40000
    INJECT_BP = 0x80000
    BLOCKIRQ = 0x100000


class DebugRegs(Struct, kind="kvm_debugregs"):
    """struct kvm_debugregs: the guest's own DR0 to DR3, DR6 and DR7."""

    db: MutableSequence[int] = array()
    dr6: int = 0
    dr7: int = 0
    flags: int = 0


class GuestDebugRegs(Struct, kind="kvm_guest_debug_arch"):
    """struct kvm_guest_debug_arch: the registers that count instead of the guest's own."""

    debugreg: MutableSequence[int] = array()


class GuestDebug(Struct, kind="kvm_guest_debug"):
    """struct kvm_guest_debug: `control` is GuestDebugFlag; the registers count with USE_HW_BP."""

    control: int = 0
    arch: GuestDebugRegs = inside(GuestDebugRegs)

    @classmethod
    def of(cls, *breakpoints: Breakpoint, single_step: bool = False) -> GuestDebug:
        """Make one that stops at up to four hardware `breakpoints`, and after each instruction."""
        if len(breakpoints) > 4:
            raise ValueError(f"x86 has four breakpoints, not {len(breakpoints)}")
        debug = cls(control=GuestDebugFlag.ENABLE)
        if single_step:
            debug.control |= GuestDebugFlag.SINGLESTEP
        if breakpoints:
            debug.control |= GuestDebugFlag.USE_HW_BP
        for index, breakpoint_ in enumerate(breakpoints):
            debug.arch.debugreg[index] = breakpoint_.address
            debug.arch.debugreg[7] |= breakpoint_.dr7(index)
        return debug


class BreakOn(IntEnum):
    """What a hardware breakpoint waits for: its R/W field in DR7 (Intel SDM 3B, 18.2.4)."""

    EXECUTE = 0
    WRITE = 1
    ACCESS = 3


class Breakpoint(Record, frozen=True):
    """A hardware breakpoint: `length` is 1, 2, 4 or 8 bytes, and 1 for EXECUTE."""

    address: int
    on: BreakOn = BreakOn.EXECUTE
    length: int = 1

    def dr7(self, index: int) -> int:
        """Return the bits of DR7 that make this breakpoint `index` (0 to 3), globally enabled."""
        length = {1: 0, 2: 1, 4: 3, 8: 2}.get(self.length)
        if length is None:
            raise ValueError(f"length: 1, 2, 4 or 8 bytes, not {self.length}")
        return 2 << 2 * index | (int(self.on) | length << 2) << 16 + 4 * index


class DebugTry:
    """The calls for debugging, each giving a Result."""

    _vcpu: HasFileno

    def get_debugregs(self) -> Result[DebugRegs]:
        """KVM_GET_DEBUGREGS: the guest's own debug registers."""
        return get(self._vcpu, "KVM_GET_DEBUGREGS", DebugRegs)

    def set_debugregs(self, registers: DebugRegs) -> Result[int]:
        """KVM_SET_DEBUGREGS. EINVAL: flags, or bits above 31 in DR6 or DR7."""
        return put(self._vcpu, "KVM_SET_DEBUGREGS", registers, DebugRegs)

    def set_guest_debug(self, debug: GuestDebug | int, debugreg: Iterable[int] = ()) -> Result[int]:
        """KVM_SET_GUEST_DEBUG: breakpoints and single steps, which exit as DebugExit.

        `debug` is a GuestDebug, which ``GuestDebug.of`` makes of breakpoints, or its `control`
        alone (GuestDebugFlag), with up to eight `debugreg`. 0 ends debugging. EBUSY: the guest has
        an exception pending and another was to be injected; EINVAL: the vCPU's state is secret.
        """
        if isinstance(debug, int):
            control, given = debug, list(debugreg)
            debug = GuestDebug(control=control)
            debug.arch.debugreg[: len(given)] = given
        return ioctl.call(self._vcpu.fileno(), "KVM_SET_GUEST_DEBUG", of_type(GuestDebug, debug))


class DebugCalls:
    """The raising forms of DebugTry."""

    get_debugregs = raising(DebugTry.get_debugregs)
    set_debugregs = raising(DebugTry.set_debugregs)
    set_guest_debug = raising(DebugTry.set_guest_debug)
