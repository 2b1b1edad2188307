# SPDX-License-Identifier: MIT
"""``kvmharness kernel``: kernels of one's own configuration."""

from __future__ import annotations

import click

from kvmharness.kernels import config


@click.group(short_help="Kernels of your own: what they must have configured.")
def kernel() -> None:
    """Make kernels that emulated hosts boot, from a tree of your own or from packaged source."""


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
