# SPDX-License-Identifier: MIT
"""Where SNP scenarios work: a VM of 64 private pages whose launch has started."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvmharness.builder import Machine, VmBuilder
from kvmharness.fd import PAGE_SIZE
from kvmharness.ioctl import Result
from kvmharness.populate.outcome import Outcome, Step, call_text, update_text
from kvmharness.populate.scenario import Bench, Need, Scenario, register
from kvmharness.populate.source import SOURCE_KINDS
from kvmharness.sev import DEFAULT_POLICY, PageType
from kvmharness.source import SourceBuffer
from kvmharness.vmtypes import VmType

if TYPE_CHECKING:
    from kvmharness.system import Kvm

#: Pages of the slot that scenarios populate; it begins at gfn 0.
SLOT_PAGES = 64


class SnpBench(Bench):
    """A Bench whose machine is an SNP VM. Pages are counted as gfns from 0."""

    def __init__(self, kvm: Kvm, outcome: Outcome) -> None:
        super().__init__(kvm, outcome)
        self._machine: Machine | None = None

    @property
    def machine(self) -> Machine:
        """The VM: one slot of SLOT_PAGES private pages, launch started. Made when first used."""
        if self._machine is None:
            self.make()
            self.machine.set_private(0, SLOT_PAGES * PAGE_SIZE)
            self.machine.snp.launch_start(DEFAULT_POLICY)
        assert self._machine is not None
        return self._machine

    def make(self, *, initialized: bool = True, vcpus: int = 0) -> Machine:
        """Make the VM without attributes and without a start, for scenarios about what precedes."""
        builder = VmBuilder(self.kvm, VmType.SNP).guest_memfd(0, SLOT_PAGES * PAGE_SIZE)
        if not initialized:
            builder.uninitialized()
        self._machine = self.stack.enter_context(builder.vcpus(vcpus).build())
        return self._machine

    def source(self, kind: str, pages: int, contents: bytes | None = None) -> Any:
        """Make a source by its name; closed with the bench."""
        made = SOURCE_KINDS[kind].make(pages, contents)
        return self.stack.enter_context(made) if isinstance(made, SourceBuffer) else made

    def try_update(
        self,
        gfn: int,
        pages: int,
        source: SourceBuffer | int | None,
        type: int = PageType.NORMAL,  # noqa: A002
        *,
        flags: int = 0,
        size: int | None = None,
    ) -> Result[int]:
        """LAUNCH_UPDATE that is not recorded as a step."""
        length = pages * PAGE_SIZE if size is None else size
        return self.machine.try_.snp.launch_update(
            gfn * PAGE_SIZE, length, source=source, type=type, flags=flags
        )

    def update(
        self,
        gfn: int,
        pages: int,
        source: SourceBuffer | int | None,
        type: int = PageType.NORMAL,  # noqa: A002
        *,
        flags: int = 0,
        size: int | None = None,
    ) -> Result[int]:
        """LAUNCH_UPDATE of `pages` pages (or `size` bytes) from `gfn`, recorded as a step."""
        length = pages * PAGE_SIZE if size is None else size
        result = self.try_update(gfn, pages, source, type, flags=flags, size=size)
        address = source.address if isinstance(source, SourceBuffer) else source or 0
        asked = (gfn * PAGE_SIZE, address, length)
        label = f"LAUNCH_UPDATE gfn {gfn}, {length // PAGE_SIZE} pages, type {type}"
        self.outcome.steps.append(
            Step(
                label,
                update_text(result, asked, moves_source=type != PageType.ZERO),
                {
                    "errno": result.errno,
                    "fw_error": result.fw_error,
                    "asked": asked,
                    "written_back": result.written_back,
                },
            )
        )
        return result

    def command(self, label: str, result: Result[Any]) -> Result[Any]:
        """Record another launch command, or any call, as a step."""
        return self.step(label, result)

    def thread_results(self, results: list[Result[Any]]) -> str:
        """Say how calls of several threads ended, their order left out: ``EIO x3, ok x1``."""
        texts = sorted(call_text(result) for result in results)
        return ", ".join(f"{text} x{texts.count(text)}" for text in dict.fromkeys(texts))


def snp_scenario(
    scenario_id: str,
    summary: str,
    *needs: Need,
    destructive: bool = False,
) -> Callable[[Callable[[SnpBench], None]], Callable[[SnpBench], None]]:
    """Declare an SNP scenario: a decorator for the function that does it."""

    def declare(action: Callable[[SnpBench], None]) -> Callable[[SnpBench], None]:
        register(Scenario(scenario_id, VmType.SNP, summary, action, SnpBench, needs, destructive))
        return action

    return declare
