# SPDX-License-Identifier: MIT
"""The ``kvmharness`` command: finds the command asked for, loads it alone, and ends clearly.

Exit status: 0 passed, 1 failed, 2 usage, 4 nothing could run (kselftest's skip), 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
import traceback
from importlib import import_module
from itertools import takewhile
from types import FrameType
from typing import Any, NoReturn

import click

import kvmharness
from kvmharness.errors import HarnessError, MissingCapability, UsageError
from kvmharness.exit_status import BISECT_ABORT, FAILED, INTERRUPTED, NOTHING_RAN, USAGE

#: Where each command lives, and its line of help: --help and one command load nothing else.
COMMANDS = {
    "probe": ("kvmharness.commands.probe:probe", "What this host offers, and what would run."),
    "run": ("kvmharness.commands.run:run", "Run the suite on this host or an emulated one."),
    "matrix": (
        "kvmharness.commands.matrix:matrix",
        "What several kernels do with the same scenarios.",
    ),
    "series": (
        "kvmharness.commands.series:series",
        "What a series of patches changes, without a kernel tree.",
    ),
    "review-check": (
        "kvmharness.commands.review_check:review_check",
        "The same for one message, as b4's review asks for it.",
    ),
    "contract": (
        "kvmharness.commands.contract:contract",
        "What a kernel promises, and where that comes from.",
    ),
    "explain": (
        "kvmharness.commands.explain:explain",
        "Why an ioctl fails with an errno, and what to do.",
    ),
    "scenario": (
        "kvmharness.commands.scenario:scenario",
        "What a scenario tries, where it is, what kernels promise of it.",
    ),
    "host": ("kvmharness.commands.host:host", "Emulated hosts: list, prepare, shell, run."),
    "kernel": (
        "kvmharness.commands.kernel:kernel",
        "Kernels of your own: what they must have configured.",
    ),
    "trace": ("kvmharness.commands.trace:trace", "Show a trace of ioctls."),
    "bench": ("kvmharness.commands.bench:bench", "How fast it is, beside C in the same run."),
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command = getattr(import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no command {args[0]!r}; there are: {', '.join(COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None  # click itself would add an empty line

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.version_option(kvmharness.__version__, prog_name="kvmharness")
@click.option(
    "--trace",
    type=click.Path(dir_okay=False),
    help="Write every ioctl that is issued to this file, one JSON line each.",
)
@click.pass_context
def cli(ctx: click.Context, trace: str | None) -> None:
    """Drive KVM's guest_memfd and confidential-VM launch ioctls, and test what a kernel does."""
    if trace is not None:
        from kvmharness.commands.trace import start_trace

        start_trace(trace)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; whatever goes wrong on purpose is one line on stderr."""
    signal.signal(signal.SIGTERM, _terminated)
    sys.exit(_status(args))


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that children are ended and temporary files removed."""
    raise SystemExit(128 + number)


def _status(args: list[str] | None) -> int:
    given = sys.argv[1:] if args is None else args
    # To git bisect nearly every status is a verdict on a commit; what goes wrong here is none.
    bisecting = "--bisect" in takewhile(lambda word: word != "--", given)
    try:
        result: Any = cli.main(args, prog_name="kvmharness", standalone_mode=False)
    except Exception as error:
        if not isinstance(error, HarnessError | click.Abort | click.ClickException):
            if not bisecting:
                raise
            traceback.print_exc()
        message, status = _failure(error)
        click.echo(f"kvmharness: {message}", err=True)
        return BISECT_ABORT if bisecting and status != INTERRUPTED else status
    return result if isinstance(result, int) else 0


def _failure(error: Exception) -> tuple[str, int]:
    """Return the line that says what went wrong, and the exit status."""
    if isinstance(error, click.Abort):
        return _line(str(error)) or "interrupted", INTERRUPTED
    if isinstance(error, click.UsageError):
        hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
        return f"{_line(error.format_message())}{hint}", USAGE
    if isinstance(error, click.ClickException):
        return _line(error.format_message()), USAGE
    message = _line(str(error))
    if isinstance(error, UsageError):
        return message, USAGE
    return message, NOTHING_RAN if isinstance(error, MissingCapability) else FAILED


def _line(text: str) -> str:
    return " ".join(text.split()).removesuffix(".")
