# SPDX-License-Identifier: MIT
"""The Python half of ci/planted.

faults/faults.patch puts all faults into KVM's modules at once, behind the parameter kvm.planted;
faults/faults.toml says what each is, and which part of the suite has to find it. Each is switched
on in a boot of its own, so that what one left behind is not found as another.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kvmharness import host_kinds
from kvmharness.exit_status import FAILED, NOTHING_RAN, USAGE

HERE = Path(__file__).resolve().parent / "faults"
#: The kernel whose source the faults are made for.
KERNEL = "7.3"
#: Seconds for the tests of one fault, and for one phase of a test.
_TIMEOUT, _DEADLINE = 600, 60


@dataclass(frozen=True)
class Fault:
    """One entry of faults.toml; `number` is the value of kvm.planted, `find` selects tests."""

    number: int
    name: str
    kind: str
    host: str
    find: tuple[str, ...]
    #: Why nothing finds it, if that is known.
    unseen: str = ""


@dataclass(frozen=True)
class Found:
    """What the suite made of a fault: the tests that failed, each with its reason."""

    fault: Fault
    passed: int
    failed: Sequence[tuple[str, str]]
    error: str = ""

    @property
    def verdict(self) -> str:
        """``caught``, ``survived``, or why it could not be tried."""
        if self.failed:
            return "caught"
        return self.error or "survived"


def faults() -> list[Fault]:
    """Return the faults, by number."""
    table = tomllib.loads((HERE / "faults.toml").read_text(encoding="utf-8"))
    return [Fault(**{**entry, "find": tuple(entry["find"])}) for entry in table["fault"]]


def try_one(fault: Fault, whole: bool) -> Found:
    """Boot with the fault switched on, and run what has to find it, or the `whole` suite."""
    with tempfile.TemporaryDirectory(prefix="kvmharness-planted-") as directory:
        report = Path(directory, "report.json")
        argv = [sys.executable, "-P", "-m", "kvmharness", "run", *(() if whole else fault.find)]
        argv += ["--host", fault.host, "--kernel", f"{KERNEL}+{HERE / 'faults.patch'}"]
        argv += ["--module-option", f"kvm:planted={fault.number}", "--json", str(report)]
        argv += ["--timeout", str(_TIMEOUT), "--deadline", str(_DEADLINE)]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=3 * _TIMEOUT, check=False
        )
        if not report.exists():
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            return Found(fault, 0, [], said[-1] if said else f"status {done.returncode}")
        records: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["records"]
    failed = [(each["id"], each["reason"]) for each in records if each["outcome"] == "failed"]
    errors = [each["reason"] for each in records if each["outcome"] == "error"]
    passed = sum(each["outcome"] == "passed" for each in records)
    return Found(fault, passed, failed, errors[0] if errors else "")


def chosen(names: Sequence[str]) -> list[Fault]:
    """Return the faults of these names, numbers or kinds; all without any. KeyError for another."""
    everything = faults()
    known = {
        word: [fault for fault in everything if word in (fault.name, str(fault.number), fault.kind)]
        for word in names
    }
    for name, found in known.items():
        if not found:
            raise KeyError(f"there is no fault {name!r}: see --list")
    return [fault for found in known.values() for fault in found] if names else everything


def show(results: Sequence[Found], console: Console) -> None:
    """Print a line for each fault, and the score."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "fault", "kind", "host", "verdict", "by"):
        table.add_column(column, overflow="fold")
    for each in results:
        fault = each.fault
        first = each.failed[0] if each.failed else ("", fault.unseen)
        more = f" and {len(each.failed) - 1} more" if len(each.failed) > 1 else ""
        by = f"{first[0]}{more}: {first[1]}" if first[0] else first[1]
        host = fault.host.removeprefix("emulated-")
        table.add_row(str(fault.number), fault.name, fault.kind, host, each.verdict, by[:160])
    console.print(table)
    caught = sum(each.verdict == "caught" for each in results)
    console.print(f"{caught} of {len(results)} faults caught, Linux {KERNEL}, emulated")


def main() -> int:
    parser = argparse.ArgumentParser(prog="ci/planted", description=__doc__)
    parser.add_argument("fault", nargs="*", help="names, numbers or kinds of faults (default: all)")
    parser.add_argument("--list", action="store_true", help="only say which there are")
    parser.add_argument("--whole", action="store_true", help="run the whole suite on each")
    parser.add_argument("--json", metavar="FILE", help="write what came of each to FILE")
    options = parser.parse_args()
    console = Console()
    try:
        wanted = chosen(options.fault)
    except KeyError as error:
        print(f"ci/planted: {error.args[0]}", file=sys.stderr)
        return USAGE
    if options.list:
        for fault in wanted:
            console.print(f"{fault.number:3} {fault.kind:10} {fault.name}", highlight=False)
        return 0
    results = []
    for fault in wanted:
        results.append(try_one(fault, options.whole))
        console.print(f"{fault.number:3} {fault.name}: {results[-1].verdict}", highlight=False)
    show(results, console)
    if options.json:
        written = [
            {"number": r.fault.number, "name": r.fault.name, "kind": r.fault.kind}
            | {"verdict": r.verdict, "passed": r.passed, "failed": r.failed}
            for r in results
        ]
        Path(options.json).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    if all(each.error and not each.failed for each in results):
        return NOTHING_RAN
    surprises = [r for r in results if r.verdict != "caught" and not r.fault.unseen]
    return FAILED if surprises else 0


assert all(fault.host in host_kinds.EMULATED for fault in faults()), "faults.toml: no such host"

if __name__ == "__main__":
    sys.exit(main())
