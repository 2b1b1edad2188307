# SPDX-License-Identifier: MIT
"""``kvmharness review-check``: a message in, b4's check results out.

b4's review runs it for each patch or series that is looked at (b4.review-perpatch-check-cmd,
b4.review-series-check-cmd): an RFC 2822 message on standard input, a JSON list on standard output.
"""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kvmharness.commands.series import examine, request, selection
from kvmharness.errors import HarnessError, MissingCapability, UsageError

if TYPE_CHECKING:
    from kvmharness.kernels.series import Series

#: Set by b4: a file with what it knows of the series.
_TRACKING = "B4_TRACKING_FILE"
_TOOL = "kvmharness"


@click.command("review-check", short_help="The same for one message, as b4's review asks for it.")
@selection
def review_check(kernel: str, vm_types: tuple[str, ...], only: tuple[str, ...]) -> int:
    """Read a message from standard input and print what its series changes, for b4's review.

    A patch is taken with those before it where b4 has the series in a branch. Of a cover letter the
    series is taken from that branch, or with b4 from the list. The status is fail where something
    broke, warn where something changed or it can't be tested here.

    Exit status: 0 with a list on standard output, 2 wrong usage.
    """
    from kvmharness.kernels.patch_tool import DoesNotApply

    message = sys.stdin.buffer.read()
    if not message.strip():
        raise UsageError("there is no message on standard input")
    results: list[dict[str, str]] = []
    try:
        series = _series(message)
        if any(patch.applied for patch in series.patches) or any(c.outside for c in series.changes):
            results = [_examined(series, kernel, vm_types, only)]
    except (MissingCapability, DoesNotApply) as error:
        results = [_result("warn", f"not tested: {error}")]
    except UsageError:
        raise
    except HarnessError as error:
        results = [_result("fail", str(error))]
    click.echo(json.dumps(results, indent=1))
    return 0


def _examined(
    series: Series, kernel: str, vm_types: tuple[str, ...], only: tuple[str, ...]
) -> dict[str, str]:
    from kvmharness.review import text

    review = examine(request(series, kernel, vm_types, only=only))
    status = "pass"
    if review.changed or review.unknown:
        status = "warn"
    if review.broke:
        status = "fail"
    words = f"{text.summary(review)} (emulated, Linux {review.kernel})"
    return _result(status, words, text.render(review))


def _result(status: str, summary: str, details: str = "") -> dict[str, str]:
    line, _, rest = summary.partition("\n")
    return {"tool": _TOOL, "status": status, "summary": line, "details": details or rest}


def _series(message: bytes) -> Series:
    """Return the series that the message is about, up to the patch it holds."""
    from kvmharness.kernels import series

    alone = series.of_message(message)
    number = series.number_of(message)
    if (commits := _reviewed()) is not None:
        whole = series.read([commits])
        return whole.first(number) if 0 < number < len(whole.patches) else whole
    if alone.patches:
        return alone
    headers = email.message_from_bytes(message, policy=email.policy.default)
    message_id = str(headers["message-id"] or "").strip()
    if not message_id:
        raise MissingCapability("a message without a patch", "it has no Message-ID to find one by")
    return series.read([message_id])


def _reviewed() -> str | None:
    """Return the commits of the series in b4's review branch, as TREE@BASE..TOPIC; None without."""
    file = os.environ.get(_TRACKING)
    if not file:
        return None
    try:
        known = json.loads(Path(file).read_text(encoding="utf-8"))["series"]
        first, change = str(known["first-patch-commit"]), str(known["change-id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not re.fullmatch(r"[0-9a-f]{7,64}", first) or not re.fullmatch(r"[\w.@-]+", change):
        return None
    # The branch ends with a commit of b4's own.
    return f"{Path.cwd()}@{first}~1..b4/review/{change}~1"
