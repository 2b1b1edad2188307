# SPDX-License-Identifier: MIT
"""KTAP version 1, nested by host and topic (the kernel's Documentation/dev-tools/ktap.rst)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvmharness.report.records import Record
from kvmharness.report.result import HostResult
from kvmharness.selection import topic

_INDENT = "  "


def render(results: Sequence[HostResult]) -> str:
    """Return the results as KTAP."""
    return "".join(f"{line}\n" for line in _hosts(results))


def _hosts(results: Sequence[HostResult]) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"1..{len(results)}"
    for number, result in enumerate(results, 1):
        yield from _indent(_host(result))
        name = f"{result.label.kind} {result.label.kernel}"
        yield _line(number, name, result.records)


def _host(result: HostResult) -> Iterator[str]:
    topics: dict[str, list[Record]] = {}
    for record in result.records:
        topics.setdefault(topic(record.id), []).append(record)
    yield "KTAP version 1"
    yield f"# Subtest: {_plain(result.label.kind)} {_plain(result.label.kernel)}"
    yield f"# {result.label.words}"
    yield f"1..{len(topics)}"
    for number, (name, records) in enumerate(topics.items(), 1):
        yield from _indent(_topic(name, records))
        yield _line(number, name, records)


def _topic(name: str, records: Sequence[Record]) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"# Subtest: {_plain(name)}"
    yield f"1..{len(records)}"
    for number, record in enumerate(records, 1):
        if record.outcome == "failed":
            for text in (record.reason, *record.ioctls, *record.kernel_log):
                yield f"# {_plain(text)}"
        yield _line(number, record.id, [record])


def _line(number: int, name: str, records: Sequence[Record]) -> str:
    """Return a result line. A group is skipped when all of it is, and failed when any of it is."""
    outcomes = {record.outcome for record in records}
    text = f"{'not ok' if 'failed' in outcomes else 'ok'} {number} {_plain(name)}"
    if outcomes <= {"skipped"}:
        reasons = {record.reason for record in records}
        reason = reasons.pop() if len(reasons) == 1 else "all skipped" if reasons else "no tests"
        text += f" # SKIP {_plain(reason)}"
    return text


def _plain(text: str) -> str:
    """Return `text` on one line and without the # that begins a directive."""
    return " ".join(text.replace("#", " ").split())


def _indent(lines: Iterable[str]) -> Iterator[str]:
    return (_INDENT + line for line in lines)
