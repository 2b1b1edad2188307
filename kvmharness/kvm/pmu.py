# SPDX-License-Identifier: MIT
"""The filter on what a guest's performance counters count, and other limits a VM sets its guest."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from kvmharness.kvm import ioctl
from kvmharness.kvm.fd import HasFileno
from kvmharness.kvm.fields import make
from kvmharness.kvm.ioctl import raising
from kvmharness.kvm.result import Result


class PmuAction(IntEnum):
    """KVM_PMU_EVENT_*: what happens to the events that are listed."""

    ALLOW = 0
    DENY = 1


class PmuTry:
    """The PMU event filter, returning form."""

    _vm: HasFileno

    def set_pmu_event_filter(
        self,
        events: Sequence[int],
        action: PmuAction | int = PmuAction.ALLOW,
        *,
        fixed_counter_bitmap: int = 0,
        flags: int = 0,
    ) -> Result[int]:
        """KVM_SET_PMU_EVENT_FILTER (KVM_CAP_PMU_EVENT_FILTER): allow or deny `events` alone.

        An event is its select and unit mask, or with KVM_PMU_EVENT_FLAG_MASKED_EVENTS (6.3) an
        entry of that format. E2BIG: more than 300; EINVAL: unknown action, flags or entry.
        """
        filter_ = make(
            "struct kvm_pmu_event_filter *",
            action=action,
            nevents=len(events),
            fixed_counter_bitmap=fixed_counter_bitmap,
            flags=flags,
            events=list(events),
        )
        return ioctl.call(self._vm.fileno(), "KVM_SET_PMU_EVENT_FILTER", filter_)


class PmuCalls:
    """The raising form of PmuTry."""

    set_pmu_event_filter = raising(PmuTry.set_pmu_event_filter)
