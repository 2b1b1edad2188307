# SPDX-License-Identifier: MIT
"""A VM's interrupt controllers and timer: PICs, IOAPIC, PIT, and the routes from GSIs to them."""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from enum import IntEnum
from typing import Any

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.ffi import lib
from kvmharness.kvm.fields import make, u64
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result
from kvmharness.kvm.structs import Struct, get, inside, put
from kvmharness.record import Record


class Irqchip(IntEnum):
    """KVM_IRQCHIP_*: one of the controllers that KVM_CREATE_IRQCHIP makes."""

    PIC_MASTER = 0
    PIC_SLAVE = 1
    IOAPIC = 2


class PicState(Struct, kind="kvm_pic_state"):
    """struct kvm_pic_state: one 8259."""

    last_irr: int = 0
    irr: int = 0
    imr: int = 0
    isr: int = 0
    priority_add: int = 0
    irq_base: int = 0
    read_reg_select: int = 0
    poll: int = 0
    special_mask: int = 0
    init_state: int = 0
    auto_eoi: int = 0
    rotate_on_auto_eoi: int = 0
    special_fully_nested_mode: int = 0
    init4: int = 0
    elcr: int = 0
    elcr_mask: int = 0


class Redirection(Struct):
    """One entry of the IOAPIC's redirection table, as its 64 `bits`."""

    bits: int = 0

    @property
    def vector(self) -> int:
        """The vector, bits 0 to 7."""
        return self.bits & 0xFF

    @property
    def masked(self) -> bool:
        """Whether the pin is masked, bit 16."""
        return bool(self.bits >> 16 & 1)


class IoapicState(Struct, kind="kvm_ioapic_state"):
    """struct kvm_ioapic_state."""

    base_address: int = 0
    ioregsel: int = 0
    id: int = 0
    irr: int = 0
    redirtbl: MutableSequence[Redirection] = inside(Redirection)


class _Chip(Struct):
    """The union of struct kvm_irqchip."""

    pic: PicState = inside(PicState)
    ioapic: IoapicState = inside(IoapicState)


class IrqchipState(Struct, kind="kvm_irqchip"):
    """struct kvm_irqchip: `chip_id` (Irqchip) says whether ``pic`` or ``ioapic`` counts."""

    chip_id: int = 0
    chip: _Chip = inside(_Chip)

    @property
    def pic(self) -> PicState:
        """The state of a PIC."""
        return self.chip.pic

    @property
    def ioapic(self) -> IoapicState:
        """The state of the IOAPIC."""
        return self.chip.ioapic


class PitChannel(Struct, kind="kvm_pit_channel_state"):
    """struct kvm_pit_channel_state: one counter of the 8254."""

    count: int = 0
    latched_count: int = 0
    count_latched: int = 0
    status_latched: int = 0
    status: int = 0
    read_state: int = 0
    write_state: int = 0
    write_latch: int = 0
    rw_mode: int = 0
    mode: int = 0
    bcd: int = 0
    gate: int = 0
    count_load_time: int = 0


class PitState2(Struct, kind="kvm_pit_state2"):
    """struct kvm_pit_state2; `flags` are KVM_PIT_FLAGS_*."""

    channels: MutableSequence[PitChannel] = inside(PitChannel)
    flags: int = 0


class PinRoute(Record, frozen=True):
    """A route from `gsi` to `pin` of a controller."""

    gsi: int
    chip: int
    pin: int


class MsiRoute(Record, frozen=True):
    """A route from `gsi` to a message: `data` written to `address`."""

    gsi: int
    address: int
    data: int
    devid: int | None = None


class HypervRoute(Record, frozen=True):
    """A route from `gsi` to a synthetic interrupt source of Hyper-V's."""

    gsi: int
    vcpu: int
    sint: int


Route = PinRoute | MsiRoute | HypervRoute


def default_routes() -> list[Route]:
    """Return the routes that KVM_CREATE_IRQCHIP makes: to the PICs 0 to 15, all to the IOAPIC."""
    routes: list[Route] = [PinRoute(gsi, Irqchip(gsi // 8), gsi % 8) for gsi in range(16)]
    return routes + [PinRoute(pin, Irqchip.IOAPIC, pin) for pin in range(lib.KVM_IOAPIC_NUM_PINS)]


class IrqchipTry:
    """The calls for interrupt controllers, each giving a Result."""

    _vm: HasFileno

    def get_irqchip(self, chip: Irqchip | int) -> Result[IrqchipState]:
        """KVM_GET_IRQCHIP. ENXIO without the in-kernel controllers, EINVAL: no such `chip`."""
        state = IrqchipState(chip_id=chip)
        return ioctl.call(self._vm.fileno(), "KVM_GET_IRQCHIP", state.pointer).with_value(state)

    def set_irqchip(self, state: IrqchipState) -> Result[int]:
        """KVM_SET_IRQCHIP of the controller that `state.chip_id` names."""
        return put(self._vm, "KVM_SET_IRQCHIP", state, IrqchipState)

    def create_pit2(self, flags: int = 0) -> Result[int]:
        """KVM_CREATE_PIT2: the 8254, with the irqchip alone. `flags`: KVM_PIT_SPEAKER_DUMMY.

        EEXIST: there is one; ENOENT: no irqchip.
        """
        config = make("struct kvm_pit_config *", flags=flags)
        return ioctl.call(self._vm.fileno(), "KVM_CREATE_PIT2", config)

    def get_pit2(self) -> Result[PitState2]:
        """KVM_GET_PIT2. ENXIO without a PIT."""
        return get(self._vm, "KVM_GET_PIT2", PitState2)

    def set_pit2(self, state: PitState2) -> Result[int]:
        """KVM_SET_PIT2. ENXIO without a PIT."""
        return put(self._vm, "KVM_SET_PIT2", state, PitState2)

    def reinject_control(self, reinject: bool) -> Result[int]:
        """KVM_REINJECT_CONTROL: whether ticks of the PIT that the guest missed come later."""
        control = make("struct kvm_reinject_control *", pit_reinject=int(reinject))
        return ioctl.call(self._vm.fileno(), "KVM_REINJECT_CONTROL", control)

    def set_gsi_routing(self, routes: Sequence[Route], flags: int = 0) -> Result[int]:
        """KVM_SET_GSI_ROUTING: replace all routes. EINVAL: a GSI or pin that can't be, or flags."""
        entries = [_entry(route) for route in routes]
        routing = make("struct kvm_irq_routing *", nr=len(entries), flags=flags, entries=entries)
        return ioctl.call(self._vm.fileno(), "KVM_SET_GSI_ROUTING", routing)

    def irq_line_status(self, irq: int, level: int) -> Result[int]:
        """KVM_IRQ_LINE_STATUS: like irq_line.

        The value is how many vCPUs it was delivered to, 0 if it came together with an earlier
        one, -1 if it was ignored.
        """
        line = make("struct kvm_irq_level *", irq=irq, level=level)
        result = ioctl.call(self._vm.fileno(), "KVM_IRQ_LINE_STATUS", line)
        return result.with_value(int(line.status))

    def set_boot_cpu_id(self, vcpu_id: int) -> Result[int]:
        """KVM_SET_BOOT_CPU_ID: the vCPU that is not to wait for INIT. EBUSY after a vCPU."""
        return ioctl.call(self._vm.fileno(), "KVM_SET_BOOT_CPU_ID", vcpu_id)


class IrqchipCalls:
    """The raising forms of IrqchipTry."""

    get_irqchip = raising(IrqchipTry.get_irqchip)
    set_irqchip = raising(IrqchipTry.set_irqchip)
    create_pit2 = raising(IrqchipTry.create_pit2)
    get_pit2 = raising(IrqchipTry.get_pit2)
    set_pit2 = raising(IrqchipTry.set_pit2)
    reinject_control = raising(IrqchipTry.reinject_control)
    set_gsi_routing = raising(IrqchipTry.set_gsi_routing)
    irq_line_status = raising(IrqchipTry.irq_line_status)
    set_boot_cpu_id = raising(IrqchipTry.set_boot_cpu_id)


def _entry(route: Route) -> dict[str, Any]:
    """Return the fields of the ``struct kvm_irq_routing_entry`` that says `route`."""
    if isinstance(route, PinRoute):
        pin = {"irqchip": route.chip, "pin": route.pin}
        kind, inner = lib.KVM_IRQ_ROUTING_IRQCHIP, {"irqchip": pin}
    elif isinstance(route, MsiRoute):
        address = u64("address", route.address)
        message = {
            "address_lo": address & 0xFFFFFFFF,
            "address_hi": address >> 32,
            "data": route.data,
            "devid": route.devid or 0,
        }
        kind, inner = lib.KVM_IRQ_ROUTING_MSI, {"msi": message}
    elif isinstance(route, HypervRoute):
        source = {"vcpu": route.vcpu, "sint": route.sint}
        kind, inner = lib.KVM_IRQ_ROUTING_HV_SINT, {"hv_sint": source}
    else:
        raise TypeError(f"a route is required, not {type(route).__name__}")
    flags = lib.KVM_MSI_VALID_DEVID if getattr(route, "devid", None) is not None else 0
    return {"gsi": route.gsi, "type": kind, "flags": flags, "u": inner}
