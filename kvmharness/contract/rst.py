# SPDX-License-Identifier: MIT
"""The contract as reStructuredText: a chapter fit for the kernel's Documentation/virt/kvm."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from kvmharness.contract.shown import Promised
from kvmharness.selection import topic

#: What means something to a reader of reStructuredText.
_SPECIAL = re.compile(r"([\\*`|]|(?<=\w)_(?=_*(?!\w))|\[(?=[\w#*]+\]_))")


def chapter(promised: Sequence[Promised], summaries: Mapping[str, str], kernel: str | None) -> str:
    """Return a chapter with a section for each topic and a definition list of its promises.

    `summaries` says what each scenario tries; `kernel` is whose promises they are, None for all's.
    """
    title = "What KVM promises of guest_memfd and of confidential VMs' launches"
    if kernel:
        title += f": Linux {kernel}"
    lines = [".. SPDX-License-Identifier: MIT", "", *_heading(title, "=", over=True)]
    lines += _paragraph(
        "Each entry names the cases it is about, what userspace sees of each step (``ok`` or an "
        "errno; ``fw=`` the firmware's code; ``+N left M`` pages done and left where that is not "
        "all or none; ``=`` what was found), and where that comes from.",
        indent="",
    )
    sections: dict[str, list[Promised]] = {}
    for each in promised:
        sections.setdefault(topic(each.scenarios[0]), []).append(each)
    for name, entries in sections.items():
        lines += _heading(name, "-")
        for entry in entries:
            lines += _entry(entry, summaries, with_kernels=kernel is None)
    return "\n".join(lines).rstrip() + "\n"


def _heading(text: str, line: str, *, over: bool = False) -> list[str]:
    text = _escaped(text)
    rule = line * len(text)
    return [*([rule] if over else []), text, rule, ""]


def _entry(entry: Promised, summaries: Mapping[str, str], *, with_kernels: bool) -> Iterator[str]:
    row = entry.row
    yield ", ".join(f"``{name}``" for name in entry.named)  # a term is one line, however long
    if len(entry.scenarios) == 1:
        yield from _paragraph(_sentence(summaries[entry.scenarios[0]]))
    if with_kernels or row.queued:
        queued = " (queued)" if row.queued else ""
        yield from _paragraph(f"Kernels: {_escaped(row.kernels)}{queued}.")
    for number, one in enumerate(row.promised):
        steps = ", then ".join(f"``{each}``" for each in one.outcome)
        logged = "".join(f"; the kernel logs ``{line}``" for line in one.log)
        why = f" {_sentence(one.why)}" if number and one.why else ""
        yield from _paragraph(f"{'Or' if number else 'Outcome'}: {steps}{logged}.{why}")
    if row.why:
        yield from _paragraph(_sentence(row.why))
    if sources := [*row.read, *(f"commit {commit}" for commit in row.commit)]:
        yield from _paragraph(f"Source: {_escaped('; '.join(sources))}.")


def _paragraph(text: str, indent: str = "  ") -> Iterator[str]:
    yield from textwrap.wrap(
        text,
        80,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield ""


def _sentence(text: str) -> str:
    text = _escaped(text)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
