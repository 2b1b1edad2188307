# SPDX-License-Identifier: MIT
"""What a scenario showed: its steps one by one, the kernel's log, the launch digest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.kvm.result import Result


@dataclass(frozen=True)
class Step:
    """One call of a scenario, or one fact it established.

    `text` is the part that a contract holds the kernel to: the errno's name, the firmware's code,
    how many pages were populated and how many left, and whatever write-back is out of the
    ordinary. `detail` is for a person: the numbers themselves.
    """

    label: str
    text: str
    detail: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.label}: {self.text}"


@dataclass
class Outcome:
    """All that a scenario showed. `steps` and `log` are what a contract row promises."""

    scenario: str
    steps: list[Step] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    log_lines: list[str] = field(default_factory=list)
    digest: str | None = None
    predicted_digest: str | None = None
    rmp: dict[str, int] | None = None
    trace: list[dict[str, Any]] = field(default_factory=list)

    @property
    def signature(self) -> list[str]:
        """What a contract row's ``outcome`` is compared with: one text per step."""
        return [step.text for step in self.steps]

    @property
    def result(self) -> str:
        """The last step's verdict: ``ok`` or an errno's name."""
        return self.steps[-1].text.split()[0] if self.steps else "nothing"

    def as_json(self) -> dict[str, Any]:
        """Return what a record holds of it."""
        return {
            "scenario": self.scenario,
            "result": self.result,
            "steps": [
                {"label": step.label, "text": step.text, **step.detail} for step in self.steps
            ],
            "log": self.log,
            "log_lines": self.log_lines,
            "digest": self.digest,
            "predicted_digest": self.predicted_digest,
            "rmp": self.rmp,
            "trace": self.trace,
        }


def call_text(result: Result[Any]) -> str:
    """Say how a call ended: ``ok``, ``EINVAL``, ``EIO fw=INVALID_PARAM``."""
    if result.fw_error:
        return f"{result.errno_name} fw={result.fw_error_name or hex(result.fw_error)}"
    return result.errno_name


def update_text(result: Result[Any], asked: tuple[int, int, int], *, moves_source: bool) -> str:
    """Say how a LAUNCH_UPDATE ended and what it wrote back, in pages.

    `asked` is (gpa, source address, size) as passed in. After success: ``ok +2``, then ``left 2``
    if the kernel stopped early. A write-back that does not fit the pages done is spelt out.
    """
    text = call_text(result)
    if result.written_back is None:
        return text
    gpa, source, size = (
        after - before for after, before in zip(result.written_back, asked, strict=True)
    )
    if result.ok:
        text += f" +{gpa // PAGE_SIZE}"
        if result.written_back[2]:
            text += f" left {result.written_back[2] // PAGE_SIZE}"
    # What is ordinary: success moves gpa and source on and shrinks the size, all by the same;
    # failure leaves everything, and ZERO leaves the source.
    if not result.ok and gpa:
        text += f" gpa {gpa:+#x}"
    if source != (gpa if moves_source else 0):
        text += f" source {source:+#x}"
    if size != -gpa:
        text += f" size {size:+#x}"
    return text
