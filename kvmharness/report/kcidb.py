# SPDX-License-Identifier: MIT
"""KernelCI's KCIDB, as its own I/O package has the format: checkouts, builds, tests.

kcidb-io is an optional dependency (the extra ``kcidb``); it validates what is written here. KCIDB's
database wants a test to refer to a build, and a build to a checkout. A lab that has submitted those
already gives the build's id; without one, a checkout and a build are made up from what is known
of the kernel that ran.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

import kvmharness
from kvmharness.errors import HarnessError, UsageError
from kvmharness.report.records import Record
from kvmharness.report.result import HostResult

#: Who submits, where a lab says nothing else.
ORIGIN = "kvmharness"

_STATUS = {"passed": "PASS", "failed": "FAIL", "error": "ERROR", "skipped": "SKIP"}
#: Of a test that was planned and never began.
_NOT_RUN = "MISS"
#: What kcidb's schema allows of a log excerpt, in characters.
_EXCERPT = 16384


def check_build(build: str | None) -> None:
    """Raise UsageError unless `build` is an id of KCIDB, ``origin:something``, or None."""
    if build is not None and not re.fullmatch(r"[a-z0-9_]+:[^\0]*", build):
        raise UsageError(f"{build!r} is no build of KCIDB: it is ORIGIN:ID, as in maestro:6500ab")


def check_installed() -> None:
    """Raise UsageError, saying how to get it, where kcidb-io is not installed."""
    try:
        import kcidb_io  # noqa: F401
    except ImportError:
        raise UsageError(
            "--kcidb needs the package kcidb-io: pip install 'kvmharness[kcidb]'"
        ) from None


def render(results: Sequence[HostResult], build: str | None = None) -> str:
    """Return the results as KCIDB's JSON, validated against its schema.

    `build` is the id of a build submitted before; the tests then belong to its origin.
    """
    import jsonschema
    from kcidb_io import schema

    report = _report(results, build, schema.V5_3)
    try:
        schema.V5_3.validate(report)
    except jsonschema.ValidationError as error:
        where = "/".join(map(str, error.absolute_path))
        raise HarnessError(f"the KCIDB report is not valid at {where}: {error.message}") from None
    return json.dumps(report, indent=1) + "\n"


def _report(results: Sequence[HostResult], build: str | None, version: Any) -> dict[str, Any]:
    report: dict[str, Any] = {"version": {"major": version.major, "minor": version.minor}}
    origin = build.partition(":")[0] if build else ORIGIN
    if build is None:
        checkouts = {_checkout(result)["id"]: _checkout(result) for result in results}
        builds = {_build(result)["id"]: _build(result) for result in results}
        report["checkouts"] = list(checkouts.values())
        report["builds"] = list(builds.values())
    run = uuid.uuid4().hex
    report["tests"] = [
        _test(record, result, build or _build(result)["id"], origin, f"{run}-{number}-{index}")
        for number, result in enumerate(results)
        for index, record in enumerate(result.records)
    ]
    return report


def _checkout(result: HostResult) -> dict[str, Any]:
    kernel = _release(result)
    origin = str(result.facts.get("kernel_origin", ""))
    checkout: dict[str, Any] = {
        "id": f"{ORIGIN}:{_digest('checkout', kernel, origin)}",
        "origin": ORIGIN,
        "comment": f"Linux {kernel}" + (f" ({origin})" if origin else ""),
        "valid": True,
    }
    match = re.match(r"\d+\.\d+(\.\d+)?(-rc\d+)?", kernel)
    if match:
        # What it was built from, as far as the release tells.
        checkout["git_commit_name"] = f"v{match[0]}"
    return checkout


def _release(result: HostResult) -> str:
    """Return the release that was built, whatever it was booted with."""
    return str(result.facts.get("kernel", result.label.kernel))


def _build(result: HostResult) -> dict[str, Any]:
    kernel, origin = _release(result), result.facts.get("kernel_origin")
    return {
        "id": f"{ORIGIN}:{_digest('build', kernel, origin)}",
        "checkout_id": _checkout(result)["id"],
        "origin": ORIGIN,
        "architecture": "x86_64",
        "comment": f"Linux {kernel}",
        "status": "PASS",
    }


def _test(
    record: Record, result: HostResult, build: str, origin: str, number: str
) -> dict[str, Any]:
    test: dict[str, Any] = {
        "id": f"{origin}:kvmharness-{number}",
        "origin": origin,
        "build_id": build,
        "path": _path(record.id),
        "status": _STATUS[record.outcome] if record.ran else _NOT_RUN,
        "duration": round(record.seconds, 3),
        "comment": record.id,
        "environment": {
            "comment": result.label.words,
            "misc": {**result.facts, "emulated": record.emulated, "host": record.host},
        },
        "misc": {
            "kvmharness": kvmharness.__version__,
            "nodeid": record.nodeid,
            "emulated": record.emulated,
            "reported": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }
    if record.reason:
        test["misc"]["reason"] = record.reason
    lines = [record.reason, record.report, *record.ioctls, *record.kernel_log]
    if excerpt := "\n".join(line for line in lines if line).replace("\0", "\ufffd"):
        # The end of a report says what happened.
        test["log_excerpt"] = excerpt[-_EXCERPT:]
    return test


def _path(test_id: str) -> str:
    """Return ``kvmharness.snp.source.null``; what a path can't hold, brackets say, becomes _."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", test_id)
    return ".".join(part.strip("_") or "_" for part in ["kvmharness", *name.split(".")])


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]
