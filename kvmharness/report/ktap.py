# SPDX-License-Identifier: MIT
"""KTAP version 1, nested by host and topic (the kernel's Documentation/dev-tools/ktap.rst).

Its directives tell apart what ``ok`` and ``not ok`` can't: SKIP, XFAIL for a failure that was
expected, TIMEOUT for a test that took too long, ERROR for what is not the kernel's fault.
"""

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
        yield f"{_ok(result.records)} {number} {_plain(name)}{_of_group(result.records)}"


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
        yield f"{_ok(records)} {number} {_plain(name)}{_of_group(records)}"


def _topic(name: str, records: Sequence[Record]) -> Iterator[str]:
    yield "KTAP version 1"
    yield f"# Subtest: {_plain(name)}"
    yield f"1..{len(records)}"
    for number, record in enumerate(records, 1):
        if record.outcome in ("failed", "error") and record.ran:
            # Of a test that died with its host there is nothing but the report.
            seen = [*record.ioctls, *record.kernel_log] or record.report.splitlines()
            yield from (f"# {line}" for line in map(_plain, [record.reason, *seen]) if line)
        yield f"{_ok([record])} {number} {_plain(record.id)}{_directive(record)}"


def _ok(records: Sequence[Record]) -> str:
    """Return the verdict on a test, or on a group: it failed when any of it did."""
    bad = any(record.outcome in ("failed", "error") for record in records)
    return "not ok" if bad else "ok"


def _directive(record: Record) -> str:
    words = ""
    if record.outcome == "skipped":
        words = "XFAIL" if record.cause == "expected" else "SKIP"
    elif record.outcome == "error":
        words = "ERROR"
    elif record.outcome == "failed" and record.cause == "timeout":
        words = "TIMEOUT"
    return f" # {words} {_plain(record.reason)}" if words else ""


def _of_group(records: Sequence[Record]) -> str:
    """Return a group's directive: skipped when all of it is, an error when nothing worse is in."""
    reasons = {record.reason for record in records}
    reason = reasons.pop() if len(reasons) == 1 else ""
    outcomes = {record.outcome for record in records}
    if "error" in outcomes and "failed" not in outcomes:
        errors = sum(record.outcome == "error" for record in records)
        return f" # ERROR {_plain(reason) or f'{errors} of {len(records)}'}"
    if all(record.outcome == "skipped" and record.cause != "expected" for record in records):
        return f" # SKIP {_plain(reason) or ('all skipped' if records else 'no tests')}"
    return ""


def _plain(text: str) -> str:
    """Return `text` on one line and without the # that begins a directive."""
    return " ".join(text.replace("#", " ").split())


def _indent(lines: Iterable[str]) -> Iterator[str]:
    return (_INDENT + line for line in lines)
