# SPDX-License-Identifier: MIT
"""Where scenarios about populating work, SNP's and TDX's alike: a slot of private pages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kvmharness.kvm.guest_memfd import GuestMemfd
from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.launch.source import SourceBuffer
from kvmharness.machine.machine import Machine
from kvmharness.scenarios import locks
from kvmharness.scenarios.bench import Bench
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.sources import SOURCE_KINDS
from kvmharness.scenarios.step import Call

if TYPE_CHECKING:
    from kvmharness.kvm.system import Kvm

#: Pages of the slot that scenarios populate; it begins at gfn 0.
SLOT_PAGES = 64

Source = SourceBuffer | int | None


class PopulateBench(Bench, ABC):
    """A Bench whose VM has SLOT_PAGES private pages to populate, counted as gfns from 0.

    What is different in SNP and TDX stands in their own benches: how the VM becomes ready, the
    command that populates, the one that ends the launch.
    """

    #: Whether a call that succeeded may have left pages to do, if it did some.
    ok_may_leave_pages = False

    def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
        super().__init__(kvm, outcome)
        self._machine: Machine | None = None

    @property
    def machine(self) -> Machine:
        """The VM, ready to be populated. Made when it is first used, if a scenario has not."""
        if self._machine is None:
            self.make_ready()
        assert self._machine is not None
        return self._machine

    @abstractmethod
    def make_ready(self) -> Machine:
        """Make the VM with its slot's pages private, ready to be populated."""

    @abstractmethod
    def make_without_attributes(self) -> Machine:
        """Make the VM ready to be populated, but for the attributes: no page was made private."""

    @abstractmethod
    def first_vcpu(self) -> Vcpu:
        """The VM's first vCPU, made if there is none."""

    @abstractmethod
    def populate(self, gfn: int, pages: int, source: Source, *, record: bool = True) -> Call:
        """Populate `pages` measured pages from `gfn` in one call, a step of the outcome.

        Without `record` it is no step: for what makes many calls.
        """

    @abstractmethod
    def finish(self) -> None:
        """End the launch."""

    @abstractmethod
    def forget_digest(self) -> None:
        """Predict no digest: pages are populated in an order that nobody knows."""

    def digest_is_right(self) -> bool:
        """Whether the stand-in's digest is the predicted one, and it was given all it should be."""
        return self.launch_digest() == self.predicted_digest() and not self.lost()

    def take_locks(self) -> None:
        """Take each lock of the VM, its vCPUs and slots, if it was made."""
        if self._machine is not None:
            slots = [slot.guest_memfd for slot in self._machine.slots]
            locks.take_each(self._machine, self._machine.vcpus, filter(None, slots))

    @property
    def guest_memfd(self) -> GuestMemfd:
        """The guest_memfd of the slot."""
        guest_memfd = self.machine.slots[0].guest_memfd
        assert guest_memfd is not None
        return guest_memfd

    def source(self, kind: str, pages: int, contents: bytes | None = None) -> Any:
        """Make a source by its name; closed with the bench.

        After the VM: the memory that a VM maps could take the place that a source leaves empty.
        """
        _ = self.machine
        made = SOURCE_KINDS[kind].make(pages, contents)
        return self.stack.enter_context(made) if isinstance(made, SourceBuffer) else made

    def populate_on(self, gfn: int, pages: int, source: Source, **how: Any) -> None:
        """Populate, and once more from where a call that succeeded stopped early.

        SNP keeps the error that stopped it to itself: it is what the next call says of that page.
        TDX returns it, with the progress, and there is no second call.
        """
        call = self.populate(gfn, pages, source, **how)
        if call.ok and call.left:
            done = call.done or 0
            rest = source if source is None else address_of(source) + done * PAGE_SIZE
            self.populate(gfn + done, call.left, rest, **how)

    def pre_fault(self, gfn: int, pages: int) -> None:
        """KVM_PRE_FAULT_MEMORY of `pages` pages from `gfn`, recorded as a step."""
        gpa, size = gfn * PAGE_SIZE, pages * PAGE_SIZE
        result = self.first_vcpu().try_.pre_fault_memory(gpa, size)
        label = f"KVM_PRE_FAULT_MEMORY gfn {gfn}, {pages} pages"
        self.outcome.steps.append(Call.of_pages(label, result, {"gpa": gpa, "bytes": size}))

    def populated_once(self, gfns: Iterable[int]) -> None:
        """Record how many of the slot's pages are named exactly once in `gfns`."""
        times = Counter(gfns)
        once = sum(times[gfn] == 1 for gfn in range(SLOT_PAGES))
        others = {gfn: times[gfn] for gfn in sorted(times) if times[gfn] != 1}
        note = f"more than once: {others}" if others else ""
        self.fact("pages populated once", f"{once} of {SLOT_PAGES}", note)


def address_of(source: Source) -> int:
    """Return the address that the kernel is given for a source; NULL is 0."""
    return source.address if isinstance(source, SourceBuffer) else source or 0
