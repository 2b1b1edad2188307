# SPDX-License-Identifier: MIT
"""What a kernel of one's own must have configured to be booted as an emulated host.

vm_images/emulated_host/kernel_config/host.fragment says it, for people and for the kernel's own
merge_config.sh, and is read here: a boot that fails for want of an option says little of which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kvmharness.resources import images_dir

#: The fragments there are, and what each is.
FRAGMENTS: Mapping[str, str] = {
    "host": "what every kernel needs to be booted as an emulated host",
    "whole": "the rest of a small kernel with every kind of VM, on top of allnoconfig",
    "debug": "lockdep, KASAN, UBSAN and KVM's own assertions, on top of whole",
}
#: The part of the fragment that holds for each kind of host.
_COMMON = "every host"
_EITHER = "y or m: "
_LINE = re.compile(r"CONFIG_(\w+)=(\S+)|# CONFIG_(\w+) is not set")


@dataclass(frozen=True)
class Option:
    """An option a kernel must have. `wanted`: ``y``, ``m``, or ``n`` for off."""

    name: str  # without CONFIG_
    wanted: str
    why: str
    part: str  # every host, or a kind's name
    either: bool = False  # built in or a module

    def __str__(self) -> str:
        if self.wanted == "n":
            return f"CONFIG_{self.name} off"
        return f"CONFIG_{self.name}={self.wanted}"

    def held_by(self, config: Mapping[str, str]) -> bool:
        """Whether a configuration has it so."""
        has = config.get(self.name, "n")
        return has in ("y", "m") if self.either else has == self.wanted


def fragment(name: str) -> str:
    """Return the text of one of FRAGMENTS."""
    return (images_dir() / "emulated_host" / "kernel_config" / f"{name}.fragment").read_text()


def options(text: str) -> Iterator[Option]:
    """Yield what a fragment's text asks for."""
    part = why = ""
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            name, wanted = (match[1], match[2]) if match[1] else (match[3], "n")
            either = why.startswith(_EITHER)
            yield Option(name, wanted, why.removeprefix(_EITHER), part, either)
        elif line.startswith("## "):
            part = line.removeprefix("## ")
        elif line.startswith("# "):
            why = line.removeprefix("# ")


def parse(text: str) -> dict[str, str]:
    """Return a .config's options without CONFIG_, those that are off left out."""
    lines = (line.partition("=") for line in text.splitlines() if line.startswith("CONFIG_"))
    return {name.removeprefix("CONFIG_"): value for name, _, value in lines}


def of_tree(tree: Path) -> dict[str, str] | None:
    """Return what a tree was built with, or what it is configured with; None where it is not.

    What is built counts: its .config may have changed since.
    """
    for name in ("include/config/auto.conf", ".config"):
        if (tree / name).exists():
            return parse((tree / name).read_text(errors="replace"))
    return None


def missing(config: Mapping[str, str], kind: str) -> list[Option]:
    """Return what of the options that hosts of this kind take a configuration has otherwise."""
    parts = {_COMMON, kind}
    # A kernel without TDX host support has kvm-intel.ko built for it, with TDX.
    if config.get("INTEL_TDX_HOST") == "y":
        parts.add(f"{kind}, INTEL_TDX_HOST")
    wanted = (each for each in options(fragment("host")) if each.part in parts)
    return [option for option in wanted if not option.held_by(config)]


def why_not(config: Mapping[str, str], kind: str) -> str | None:
    """Return why a kernel configured so can't be booted as a host of this kind; None if it can."""
    lacking = missing(config, kind)
    if not lacking:
        return None
    return (
        f"its .config needs {'; '.join(_by_reason(lacking))}. `kvmharness kernel fragment` prints "
        "what to merge into it (scripts/kconfig/merge_config.sh .config FRAGMENT)"
    )


def _by_reason(lacking: Iterable[Option]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for option in lacking:
        reasons.setdefault(option.why, []).append(str(option))
    for why, names in reasons.items():
        yield f"{', '.join(names)} ({why})"
