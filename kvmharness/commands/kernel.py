# SPDX-License-Identifier: MIT
"""``kvmharness kernel``: kernels of one's own configuration."""

from __future__ import annotations

from pathlib import Path

import click

from kvmharness import host_kinds
from kvmharness.errors import UsageError
from kvmharness.kernels import config
from kvmharness.kernels.own_build import VARIANTS


@click.group(short_help="Kernels of your own: what they must have configured.")
def kernel() -> None:
    """Make kernels that emulated hosts boot, from a tree of your own or from packaged source."""


@kernel.command()
@click.argument(
    "tree", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--series", metavar="SERIES", help="Of Debian's archive.  [default: 7.3]")
@click.option(
    "--variant",
    type=click.Choice(list(VARIANTS)),
    default="plain",
    show_default=True,
    help="What it is configured for.",
)
def build(tree: Path | None, series: str | None, variant: str) -> None:
    """Build a whole kernel of our configuration, out of a packaged source or TREE.

    It has every kind of VM with private memory in one image, and is then a kernel like others:
    kvmharness run snp --host emulated-snp --kernel 7.3:debug. It takes a quarter of an hour on two
    cores; an interrupted build goes on where it was.
    """
    from kvmharness.kernels import own_build, spec

    if tree is not None and series is not None:
        raise UsageError("give a tree or --series, not both")
    base = str(tree) if tree is not None else series or host_kinds.DEFAULT_KERNEL
    if tree is None and (spec.is_tree(base) or spec.parse(base).patches):
        raise UsageError(f"--series {base}: give a series, such as 7.3")
    made = own_build.build(base, variant)
    click.echo(f"{base}:{variant} is ready: Linux {made.release} ({made.origin})")


@kernel.command()
@click.argument("name", type=click.Choice(list(config.FRAGMENTS)), default="host")
def fragment(name: str) -> None:
    """Print a fragment of a .config: by default what a tree must have to be booted.

    \b
    kvmharness kernel fragment >host.fragment
    scripts/kconfig/merge_config.sh .config host.fragment
    make olddefconfig bzImage modules
    """
    click.echo(config.fragment(name), nl=False)
