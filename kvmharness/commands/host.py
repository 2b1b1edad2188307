# SPDX-License-Identifier: MIT
"""``kvmharness host``: what is cached of emulated hosts, make one ready, run things in it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kvmharness import host_kinds
from kvmharness.commands import bisect
from kvmharness.errors import UsageError

if TYPE_CHECKING:
    from kvmharness.hosts.emulated import EmulatedHost
    from kvmharness.hosts.host import HostRun

_KINDS = tuple(host_kinds.EMULATED)


def _kernel_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--kernel",
        metavar="KERNEL",
        default=host_kinds.DEFAULT_KERNEL,
        show_default=True,
        help="A series of Debian's archive, also with patches (7.3+series.mbox) or as a variant "
        "(7.3:sw-protected), the newest there, or a kernel build tree.",
    )(command)


def _kind_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--kind",
        type=click.Choice(_KINDS),
        default=_KINDS[0],
        show_default=True,
        help="Which silicon is stood in for.",
    )(command)


def _machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--smp", type=click.IntRange(1, 16), default=1, help="Processors."),
        click.option(
            "--memory",
            type=click.IntRange(256, 65536),
            default=1024,
            show_default=True,
            help="Memory in MiB.",
        ),
        click.option(
            "--share",
            "shares",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            multiple=True,
            help="A directory that can be written from inside (all others can only be read).",
        ),
        click.option(
            "--module",
            "modules",
            metavar="NAME=PATH",
            multiple=True,
            help="A module of your own in place of the kernel's, such as kvm=kvm.ko. Repeatable.",
        ),
        click.option(
            "--module-option",
            "module_options",
            metavar="MODULE.NAME=VALUE",
            multiple=True,
            help="An option for a module, such as kvm.tdp_mmu=0. Repeatable.",
        ),
        click.option("--append", default="", help="More for the guest kernel's command line."),
    ):
        command = option(command)
    return command


@click.group(short_help="Emulated hosts: list, prepare, shell, run.")
def host() -> None:
    """Boot a real kernel on emulated SNP or TDX silicon, and run things in it.

    Nothing there is a hardware result. Kernels, QEMU and build tools are fetched with apt into the
    cache directory; nothing is installed. The caller's files are there inside, read-only.
    """


@host.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(as_json: bool) -> None:
    """Show what is cached: kernels, their origin and size, and the tools."""
    from kvmharness.kernels import cache, kernels, own_build

    rows: list[dict[str, Any]] = []
    for kernel in (*kernels.cached(), *own_build.cached()):
        directory = kernel.image.parent
        built = sorted((directory / "built").glob("*.ko"), key=lambda p: p.stat().st_mtime)
        rows.append(
            {
                "kernel": kernel.label,
                "series": kernels.series_of(kernel.release),
                "origin": kernel.origin,
                "standins": list(dict.fromkeys(p.stem.rpartition("-")[0] for p in built)),
                "bytes": cache.size_of(directory),
            }
        )
    root = cache.cache_dir()
    shown: dict[str, Any] = {"cache": str(root), "bytes": cache.size_of(root), "kernels": rows}
    if as_json:
        click.echo(json.dumps(shown, indent=2))
        return
    for row in rows:
        ready = ", ".join(row["standins"]) or "no stand-in built yet"
        click.echo(f"{row['kernel']:28} {_megabytes(row['bytes'])}  {row['origin']}  ({ready})")
    if not rows:
        click.echo(f"no kernel is cached; kvmharness host prepare {_KINDS[0]} fetches one")
    click.echo(f"cache: {root}, {_megabytes(shown['bytes']).strip()} with QEMU and build tools")


@host.command()
@click.argument("kind", type=click.Choice(_KINDS))
@_kernel_option
@click.option("--update", is_flag=True, help="Look for a newer point release of the series.")
def prepare(kind: str, kernel: str, update: bool) -> None:
    """Fetch and build what a host needs, so that it starts at once later."""
    from kvmharness.hosts.emulated import EmulatedHost

    ready = EmulatedHost.prepare(kind, kernel, update=update)
    facts = ready.facts
    click.echo(
        f"{kind} is ready: Linux {facts['kernel']} ({facts['kernel_origin']}), "
        f"QEMU {facts['qemu']}, stand-in {facts['standin']}"
    )


@host.command()
@_kind_option
@_kernel_option
@_machine_options
def shell(
    kind: str,
    kernel: str,
    smp: int,
    memory: int,
    shares: tuple[Path, ...],
    modules: tuple[str, ...],
    module_options: tuple[str, ...],
    append: str,
) -> int:
    """Open a shell inside, in the current directory. Leave it with exit."""
    from kvmharness.kernels.module_options import parse

    ready = _prepare(kind, kernel, modules, parse(module_options))
    program = os.environ.get("SHELL", "/bin/sh")
    click.echo(f"booting Linux {ready.facts['kernel']} (emulated) ...", err=True)
    result = ready.shell(
        [program, "-i"],
        smp=smp,
        memory=memory,
        append=append,
        writable=shares,
    )
    _tell(result)
    return result.exit_status


@host.command(context_settings={"ignore_unknown_options": True})
@_kind_option
@_kernel_option
@_machine_options
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds for the command, from when it starts.",
)
@click.option(
    "--keep-vmcore",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    metavar="DIR",
    help="Keep the host's memory in DIR when its kernel panics or hangs.",
)
@bisect.options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    kind: str,
    kernel: str,
    smp: int,
    memory: int,
    shares: tuple[Path, ...],
    modules: tuple[str, ...],
    module_options: tuple[str, ...],
    append: str,
    timeout: float,
    keep_vmcore: Path | None,
    bisect_: bool,
    build: str | None,
    command: tuple[str, ...],
) -> int:
    """Run COMMAND inside, in the current directory; end with its status.

    124: it was still running at its deadline. 125: the host did not boot. 126: its kernel panicked,
    or QEMU crashed. The last lines of the console are shown then, and the QEMU command that boots
    the same machine again; what it needs is kept in the cache, of the last few runs.
    """
    from kvmharness.kernels import spec
    from kvmharness.kernels.module_options import parse

    spec.parse(kernel)
    options = parse(module_options)

    def boot(env: dict[str, str] | None = None) -> HostRun:
        result = _prepare(kind, kernel, modules, options).run(
            command,
            timeout=timeout,
            env=env,
            on_output=_pass_on,
            smp=smp,
            memory=memory,
            writable=shares,
            append=append,
            keep_vmcore=keep_vmcore,
        )
        _tell(result)
        return result

    if bisect_:
        return bisect.step(kernel, build, boot)
    if build is not None:
        raise UsageError("--build goes with --bisect")
    return boot().exit_status


def _prepare(
    kind: str, kernel: str, modules: tuple[str, ...], module_options: tuple[str, ...]
) -> EmulatedHost:
    from kvmharness.hosts.emulated import EmulatedHost

    host = EmulatedHost.prepare(kind, kernel).with_modules(modules)
    return host.with_module_options(module_options)


def _tell(result: HostRun) -> None:
    """Say on stderr what went wrong where the command did not end by itself."""
    from kvmharness.hosts.host import Verdict

    if result.verdict is not Verdict.FINISHED:
        told = (f"kvmharness: {result.explain()}", result.how_again())
        click.echo("\n".join(filter(None, told)), err=True)


def _pass_on(stream: str, data: bytes) -> None:
    out = (sys.stdout if stream == "stdout" else sys.stderr).buffer
    out.write(data)
    out.flush()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:7.1f} MB"
