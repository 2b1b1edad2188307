# SPDX-License-Identifier: MIT
"""A step of ``git bisect run``: the tree is built at its commit, booted, and judged.

Git takes status 1 for bad, and nearly every other too; so all that is not a verdict on the commit
has to be told apart. Only a test that failed, or a kernel that panicked under it, is bad; a commit
that does not build, or not boot, is passed over (125); what would be wrong at every commit, such as
a path that is not there, ends the bisection (128 and above), before it names a wrong commit.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvmharness import process
from kvmharness.errors import HarnessError, MissingCapability, UsageError
from kvmharness.exit_status import BISECT_ABORT, BISECT_SKIP, BISECT_VARIABLE, FAILED

if TYPE_CHECKING:
    from kvmharness.hosts.host import HostRun

#: Seconds for the build of one commit.
BUILD_DEADLINE = 4 * 3600.0
_IMAGE = "arch/x86/boot/bzImage"


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--bisect`` and ``--build`` to a command."""
    for option in (
        click.option(
            "--build",
            metavar="COMMAND",
            help="With --bisect: how a commit is built, for a shell in the tree. "
            "[default: make olddefconfig bzImage modules]",
        ),
        click.option(
            "--bisect",
            "bisect_",
            is_flag=True,
            help="A step of git bisect run: build the tree of --kernel, then run COMMAND there. "
            "Ends with 0 (good), 1 (bad: COMMAND ended with 1, or the kernel panicked), 125 (this "
            "commit does not build or boot) or 128 (the bisection can't go on).",
        ),
    ):
        command = option(command)
    return command


def step(kernel: str, build_command: str | None, boot: Callable[[dict[str, str]], HostRun]) -> int:
    """Build the tree `kernel`, boot it with `boot`, and return the status that git is to read.

    `boot` gets what is to be in the command's environment.
    """
    try:
        build(kernel, build_command)
        return _status(boot({BISECT_VARIABLE: "1"}))
    except HarnessError as failure:
        return _status_of_failure(failure)


class NotThisCommit(HarnessError):
    """This commit can't be judged: it is passed over."""


def build(kernel: str, command: str | None) -> None:
    """Build the tree `kernel` with `command` (None: make), and see that what is there is of HEAD.

    The image and KVM's modules are removed before: what is there afterwards, this build made.
    Raises NotThisCommit for a commit that does not build, UsageError for what is no tree, and for a
    command that leaves no image of this commit.
    """
    from kvmharness.kernels import kernels, spec, trees

    asked = spec.parse(kernel)
    if not asked.is_tree:
        raise UsageError(f"--bisect takes the path of a kernel tree, not {kernel}")
    tree = Path(asked.base).expanduser().resolve()
    booted = {name.replace("_", "-") for name in kernels.WANTED}
    modules = (path for name, path in trees.modules_below(tree).items() if name in booted)
    for made in (tree / _IMAGE, *modules):
        made.unlink(missing_ok=True)
    words = command or shlex.join(
        ["make", "-s", f"-j{os.cpu_count() or 1}", "olddefconfig", "bzImage", "modules"]
    )
    click.echo(f"kvmharness: building {_head(tree)[:12] or tree}: {words}", err=True)
    with process.child(
        ["sh", "-c", words], cwd=tree, stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno()
    ) as running:
        try:
            status = running.wait(BUILD_DEADLINE)
        except subprocess.TimeoutExpired:
            raise NotThisCommit(f"not built within {BUILD_DEADLINE / 3600:.0f} h") from None
    if status != 0:
        raise NotThisCommit(f"it does not build: {words!r} ended with status {status}")
    _refuse_stale(tree, words)


def _refuse_stale(tree: Path, words: str) -> None:
    image = tree / _IMAGE
    if not image.exists():
        raise UsageError(f"{words!r} ended with status 0 and left no {_IMAGE} in {tree}")
    head = _head(tree)
    if not head:
        return
    written = ["rev-parse", "--path-format=absolute"]  # with a checkout, and with a commit
    written += [word for name in ("HEAD", "logs/HEAD") for word in ("--git-path", name)]
    files = filter(Path.exists, map(Path, _git(tree, *written).splitlines()))
    if image.stat().st_mtime < max(file.stat().st_mtime for file in files):
        raise UsageError(
            f"{image} is older than the checkout of {head[:12]}: {words!r} did not build it"
        )
    release = tree / "include/config/kernel.release"
    named = re.search(r"-g([0-9a-f]{7,40})", release.read_text() if release.exists() else "")
    if named and not head.startswith(named[1]):
        raise UsageError(
            f"the kernel in {tree} was built at {named[1]} (its release says so), "
            f"HEAD is {head[:12]}: {words!r} did not build it"
        )


def _head(tree: Path) -> str:
    """Return the commit that is checked out, empty where git knows of none."""
    return _git(tree, "rev-parse", "--verify", "-q", "HEAD")


def _git(tree: Path, *arguments: str) -> str:
    # A build directory of its own (make O=) is beside the repository.
    source = tree / "source" if (tree / "source").is_dir() else tree
    try:
        return process.run(["git", "-C", str(source), *arguments], timeout=60).stdout.strip()
    except FileNotFoundError:
        return ""


# ------------------------------------------------------------------ what it comes to


def _status(run: HostRun) -> int:
    """Return the step's exit status for what COMMAND came to, and say on stderr what git won't."""
    from kvmharness.hosts.host import Verdict

    if run.verdict is Verdict.PANIC:
        return _said("bad: the kernel panicked while the command ran", FAILED)
    if run.verdict is not Verdict.FINISHED:
        return _said(f"passed over: {run.verdict}: {run.detail}", BISECT_SKIP)
    if run.status in (0, FAILED, BISECT_SKIP):
        return run.status
    return _said(
        f"the bisection ends: the command ended with status {run.status}, which is no verdict on "
        "the kernel; 0 is good, 1 bad, 125 passes the commit over",
        BISECT_ABORT,
    )


def _status_of_failure(failure: HarnessError) -> int:
    """Return the step's exit status where it came to no run, and say why on stderr.

    What is built of a commit and does not serve is that commit's; a tree that is configured
    otherwise than a host takes will be so at the next one.
    """
    from kvmharness.kernels.elf import BadModule
    from kvmharness.kernels.modulebuild import BuildFailed

    if isinstance(failure, NotThisCommit | BuildFailed | BadModule):
        return _said(f"passed over: {failure}", BISECT_SKIP)
    ends = isinstance(failure, UsageError | MissingCapability)
    return _said(f"{'the bisection ends: ' if ends else ''}{failure}", BISECT_ABORT)


def _said(text: str, status: int) -> int:
    click.echo(f"kvmharness: {text}", err=True)
    return status
