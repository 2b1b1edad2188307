# SPDX-License-Identifier: MIT
"""JUnit's XML, as CI systems read it: a test suite for each host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from kvmharness.report.records import Record
from kvmharness.report.result import HostResult
from kvmharness.selection import topic

#: What XML 1.0 can't hold, even escaped.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_ELEMENTS = {"failed": "failure", "error": "error", "skipped": "skipped"}


def render(results: Sequence[HostResult]) -> str:
    """Return the results as a JUnit document."""
    root = ElementTree.Element("testsuites", name="kvmharness")
    for result in results:
        _suite(root, result)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _suite(root: ElementTree.Element, result: HostResult) -> None:
    suite = ElementTree.SubElement(
        root,
        "testsuite",
        name=f"{result.label.kind} {result.label.kernel}",
        tests=str(len(result.records)),
        failures=str(result.count("failed")),
        errors=str(result.count("error") + result.not_run),
        skipped=str(result.count("skipped")),
        time=f"{result.seconds:.3f}",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (
        ("host", result.label.kind),
        ("kernel", result.label.kernel),
        ("emulated", str(result.label.emulated).lower()),
        ("label", result.label.words),
    ):
        ElementTree.SubElement(properties, "property", name=name, value=value)
    for record in result.records:
        _case(suite, record)


def _case(suite: ElementTree.Element, record: Record) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_legal(topic(record.id)),
        name=_legal(record.id),
        time=f"{record.seconds:.3f}",
    )
    if record.outcome == "passed":
        return
    element = ElementTree.SubElement(case, _ELEMENTS[record.outcome], message=_legal(record.reason))
    if record.cause:
        element.set("type", record.cause)
    if record.outcome != "skipped":
        element.text = _legal("\n".join([record.report, *record.ioctls, *record.kernel_log]))


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
