# SPDX-License-Identifier: MIT
"""What backs each memslot of a VM, held for as long as the slot has it.

The kernel keeps an address and nothing else: memory that is unmapped under a slot is whatever comes
to lie there next, and the guest's stores go there.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

from kvmharness.closing import Closing
from kvmharness.errors import HarnessError


class Bindable(Closing):
    """Memory that a slot can be made of. Closing it while a slot has it is an error.

    That is unless it is let go on purpose, as a test of the kernel's own lifetimes has to. Leaving
    the with block of what a slot has leaves it to the VM: closed when the last such slot is gone.
    """

    _bindings: set[Binding]
    _left_to_slots = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A guest_memfd is made by its VM, so its block ends first, with the slot in use.
        self._left_to_slots = bool(self._bindings)
        if not self._left_to_slots:
            self.close()

    def _unbind(self, binding: Binding) -> None:
        self._bindings.discard(binding)
        if self._left_to_slots and not self._bindings:
            self.close()

    def _leave_slots(self, let_go: bool) -> None:
        """Raise HarnessError if a slot has this, or with `let_go` have the slots give it up."""
        if not self._bindings:
            return
        if not let_go:
            # A copy: another thread's slots may change meanwhile.
            slots = "; ".join(sorted(str(binding) for binding in tuple(self._bindings)))
            raise HarnessError(
                f"{self!r} backs {slots}: delete the slot, or close the VM and its vCPUs, first; "
                "or give it up under the slot with let_go=True"
            )
        for binding in tuple(self._bindings):
            binding.let_go(self)


class Binding:
    """One slot as it was set: where it lies, its size in bytes, and the memory behind it."""

    __slots__ = ("gpa", "memory", "size", "slot", "vm_fd")

    def __init__(
        self, vm_fd: int, slot: int, gpa: int, size: int, memory: Iterable[Bindable]
    ) -> None:
        self.vm_fd = vm_fd
        self.slot = slot
        self.gpa = gpa
        self.size = size
        self.memory = list(memory)
        for thing in self.memory:
            thing._bindings.add(self)

    def let_go(self, thing: Bindable) -> None:
        """Hold `thing` no longer."""
        with suppress(ValueError):  # dropped by another thread meanwhile
            self.memory.remove(thing)
        thing._bindings.discard(self)

    def drop(self) -> None:
        """Hold nothing any longer."""
        memory, self.memory = self.memory, []
        for thing in memory:
            thing._unbind(self)

    def __str__(self) -> str:
        return f"memslot {self.slot} (gpa {self.gpa:#x}) of the VM with fd {self.vm_fd}"


class Memslots:
    """The slots of one VM. What they hold is let go when the VM and its last vCPU are closed."""

    def __init__(self, vm_fd: int) -> None:
        self._vm_fd = vm_fd
        # A list: while two threads set one slot, either's memory may be what the kernel has.
        self._slots: dict[int, list[Binding]] = {}
        self._holders = 0
        # Held for a moment, never across an ioctl. Re-entrant: what is dropped may be the last
        # reference to memory, whose end comes by here.
        self._lock = threading.RLock()

    def hold(self) -> Memslots:
        """Count one more open fd, the VM's or a vCPU's, through which the slots are in use."""
        with self._lock:
            self._holders += 1
        return self

    def release(self) -> None:
        """Count one fewer; after the last the slots hold nothing."""
        with self._lock:
            self._holders -= 1
            last = self._holders <= 0
        if last:
            self.let_go()

    def let_go(self) -> None:
        """Hold nothing any longer, whatever the kernel's slots are."""
        with self._lock:
            slots, self._slots = self._slots, {}
            for bindings in slots.values():
                for binding in bindings:
                    binding.drop()

    def begin(
        self, slot: int, gpa: int, size: int, memory: Iterable[Bindable]
    ) -> tuple[Binding, list[Binding]]:
        """Hold `memory` before the kernel may use it; returns the new binding and the old ones."""
        with self._lock:
            return Binding(self._vm_fd, slot, gpa, size, memory), list(self._slots.get(slot, ()))

    def end(self, new: Binding, old: list[Binding], done: bool) -> None:
        """Note whether the kernel has set the slot: the `old` bindings go, or the `new` one."""
        if not done:
            new.drop()
            return
        with self._lock:
            kept = [binding for binding in self._slots.get(new.slot, ()) if binding not in old]
            if new.size:  # size 0 deletes
                kept.append(new)
            if kept:
                self._slots[new.slot] = kept
            else:
                self._slots.pop(new.slot, None)
            for binding in old:
                binding.drop()

    def size_of(self, slot: int) -> int:
        """Return the size of `slot` in bytes, 0 if it was not made through this VM object."""
        return max((binding.size for binding in self._slots.get(slot, ())), default=0)

    def __contains__(self, slot: Any) -> bool:
        return slot in self._slots
