# SPDX-License-Identifier: MIT
"""Trace entries as one line each: what went in, what came out, what the kernel changed of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

#: Arguments longer than this are cut: a line that wraps three times is not read.
_WIDTH = 160


def lines(entries: Sequence[Mapping[str, Any]], last: int | None = None) -> list[str]:
    """Return a line for each entry, or for the `last` ones; repetitions are counted, not shown."""
    shown = entries if last is None else entries[-last:]
    result: list[str] = []
    if len(shown) < len(entries):
        result.append(f"... {len(entries) - len(shown)} earlier calls")
    previous, times = "", 0
    for entry in shown:
        text = line(entry)
        if text == previous:
            times += 1
            result[-1] = f"{text}   (x {times})"
        else:
            previous, times = text, 1
            result.append(text)
    return result


def line(entry: Mapping[str, Any]) -> str:
    """Return one entry as ``fd 5  KVM_CREATE_GUEST_MEMFD size=0x1000 = 6`` or ``= EINVAL``."""
    before, after = entry.get("before"), entry.get("after")
    fd = "" if entry.get("fd") is None else f"fd {entry['fd']}"
    arguments = " ".join(_fields(before)) if isinstance(before, Mapping) else _value(before)
    outcome = _outcome(entry)
    if changed := " ".join(_changes(before, after)):
        outcome += f"  -> {_cut(changed)}"
    return f"{fd:<6} {entry['ioctl']} {_cut(arguments)}".rstrip() + f" = {outcome}"


def _outcome(entry: Mapping[str, Any]) -> str:
    failed = entry.get("errno", "ok") != "ok"
    ret = entry.get("ret")
    # An address is read in hexadecimal, an fd or a size in decimal.
    shown = hex(ret) if isinstance(ret, int) and ret > 0xFFFF_FFFF else str(ret)
    text = str(entry["errno"]) if failed else shown
    if entry.get("fw_error"):
        text += f" (firmware error {entry['fw_error']:#x})"
    return text


def _fields(value: Mapping[str, Any]) -> Iterator[str]:
    """Yield name=value of what is set: most members of KVM's structs are 0 most of the time."""
    for name, content in value.items():
        if content or content is False:
            yield f"{name}={_value(content)}"


def _changes(before: Any, after: Any) -> Iterator[str]:
    if not isinstance(after, Mapping):
        return
    was = before if isinstance(before, Mapping) else {}
    for name, content in after.items():
        if was.get(name) != content:
            yield f"{name}={_value(content)}"


def _value(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, Mapping):
        return "{" + " ".join(_fields(content)) + "}"
    if isinstance(content, list):
        return f"[{len(content)} entries]" if len(content) > 4 else f"[{_join(content)}]"
    if isinstance(content, int) and not isinstance(content, bool) and abs(content) > 9:
        return hex(content)
    return str(content)


def _join(values: list[Any]) -> str:
    return " ".join(_value(value) for value in values)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."
