# SPDX-License-Identifier: MIT
"""``kvmharness explain``: which cases give an errno from an ioctl, why, and what to do."""

from __future__ import annotations

import difflib
import errno as errnos
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from kvmharness.commands.contract import check_kernel
from kvmharness.errors import HarnessError, UsageError, errno_name

if TYPE_CHECKING:
    from kvmharness.contract.causes import Cause
    from kvmharness.contract.rows import Contract
    from kvmharness.scenarios.scenario import Scenario

_NAMED = 4  # scenarios of one cause that are named; of more, their number is told


@click.command(short_help="Why an ioctl fails with an errno, and what to do.")
@click.argument("words", nargs=-1, required=True, metavar="[IOCTL] ERRNO")
@click.option(
    "--kernel",
    metavar="RELEASE",
    help="What this kernel does: a release (6.12.107) or a series (6.12). Without: every kernel.",
)
def explain(words: tuple[str, ...], kernel: str | None) -> None:
    """Say in which cases IOCTL fails with ERRNO, why, and what to do.

    IOCTL is an ioctl, a sub-command (KVM_SEV_SNP_LAUNCH_UPDATE) or the end of its name
    (LAUNCH_UPDATE); without it, whatever gives ERRNO. Known are the cases that the scenarios try.
    """
    from kvmharness.contract import causes, files
    from kvmharness.scenarios import catalog

    if len(words) > 2:
        raise UsageError("one ioctl and one errno, such as: explain KVM_SEV_SNP_LAUNCH_UPDATE EIO")
    check_kernel(kernel)
    contract = files.load()
    scenarios = catalog.all_scenarios()
    ids = list(scenarios)
    ioctl = _ioctl(words[0], causes.ioctls(contract, ids)) if len(words) == 2 else None
    errno = _errno(words[-1])
    found = causes.causes(contract, ids, ioctl, errno, kernel)
    what = f"{errno} from {ioctl or 'any call'} on {f'Linux {kernel}' if kernel else 'any kernel'}"
    if not found:
        raise HarnessError(
            f"no case that is known gives {what}; {_otherwise(contract, ids, ioctl, errno)}"
        )
    click.echo(f"{what}: {len(found)} causes\n" if len(found) > 1 else f"{what}: one cause\n")
    # Those first that somebody can do something about.
    found.sort(key=lambda cause: not cause.row.advice)
    click.echo("\n".join(_told(found, scenarios, several=kernel is None or ioctl is None)))


def _ioctl(word: str, known: Sequence[str]) -> str:
    wanted = word.upper()
    if fitting := [each for each in known if wanted == each.upper()] or [
        each for each in known if each.upper().endswith(f"_{wanted}")
    ]:
        if len(fitting) == 1:
            return fitting[0]
        raise UsageError(f"{word} may be {', '.join(fitting)}")
    raise UsageError(f"no scenario calls {word!r}{_close(wanted, known)}")


def _errno(word: str) -> str:
    from kvmharness.scenarios.step import SIGNALS

    known = {errno_name(number) for number in errnos.errorcode} | set(SIGNALS)
    name = errno_name(int(word.lstrip("-"))) if word.lstrip("-").isdecimal() else word.upper()
    if name not in known:
        raise UsageError(f"{word!r} is no errno's name{_close(name, sorted(known))}")
    return name


def _close(word: str, known: Sequence[str]) -> str:
    ends = {each.removeprefix("KVM_"): each for each in known} | {each: each for each in known}
    close = difflib.get_close_matches(word, list(ends), n=5, cutoff=0.6)
    names = list(dict.fromkeys(ends[each] for each in close))[:3]
    return f"; close to it: {', '.join(names)}" if names else f"; there are: {', '.join(known)}"


def _otherwise(contract: Contract, ids: Sequence[str], ioctl: str | None, errno: str) -> str:
    """Say where else to look for an errno that a kernel or a call does not give."""
    from kvmharness.contract import causes

    others = sorted({each.row.kernels for each in causes.causes(contract, ids, ioctl, errno, None)})
    if others:
        return f"other kernels do: {'; '.join(others)}"
    given = ", ".join(causes.errnos(contract, ids, ioctl))
    return f"known are {given}" if given else "nothing that is known fails"


def _told(found: Sequence[Cause], scenarios: dict[str, Scenario], *, several: bool) -> list[str]:
    from kvmharness.launch.firmware_meaning import firmware_meaning

    lines: list[str] = []
    for cause in found:
        row = cause.row
        for scenario in list(cause.steps)[:_NAMED]:
            numbers = ", ".join(str(number) for number, _ in cause.steps[scenario])
            step = f" (step {numbers} of {len(row.outcome)})" if len(row.outcome) > 1 else ""
            lines.append(f"{scenario}: {scenarios[scenario].summary}{step}")
        if more := len(cause.steps) - _NAMED:
            lines += [f"and {more} more"] if more > 0 else []
        lines.append(f"    {', '.join(cause.words)}")
        told = [("why", row.why)]
        told += [(f"fw={code}", firmware_meaning(code)) for code in cause.firmware]
        told += [("do", row.advice)]
        told += [("kernels", row.kernels)] if several or row.queued else []
        told += [("source", row.origin)]
        for name, text in told:
            if text:
                lines += textwrap.wrap(
                    f"{name}: {text}",
                    100,
                    initial_indent="    ",
                    subsequent_indent="      ",
                    break_on_hyphens=False,
                )
        lines.append("")
    return lines[:-1]
