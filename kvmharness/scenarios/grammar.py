# SPDX-License-Identifier: MIT
"""The words of a contract: what a step showed, and what is promised of one, there and back.

ok | EINVAL                      a call; with `` fw=NAME`` if the firmware or TDX module failed it
ok +2 left 2                     a populate that did otherwise than its result says: ``ok`` alone
                                 is every page done, an errno none; both numbers are pages
ok source +0x0                   an address that moved otherwise than the pages done: source, gpa;
                                 ``size`` for one that did not shrink by whole pages
SIGBUS | SIGSEGV | ok            a touch of memory
all ok | some ok, some EIO       of many calls: each of these occurred, and nothing else
ok, perhaps EIO                  at least one ok; there may be EIO, and nothing else
none                             of many calls, that there was none
= corrected | = 64 of 64 | = 3   a fact, in a word of step.ANSWERS or a number
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from kvmharness.errors import HarnessError, errno_name
from kvmharness.launch.firmware import firmware_names
from kvmharness.launch.tdx_status import is_status_name
from kvmharness.scenarios.step import SIGNALS, Fact, Step, Tally, is_answer

_ERRNOS = {errno_name(number) for number in errno.errorcode}
_CALL = re.compile(
    r"(?P<verdict>\w+)(?: fw=(?P<firmware>\S+))?"
    r"(?: \+(?P<done>\d+) left (?P<left>\d+))?"
    r"(?: source (?P<source>[+-]0x[0-9a-f]+))?"
    r"(?: gpa (?P<gpa>[+-]0x[0-9a-f]+))?"
    r"(?: size (?P<size>[+-]0x[0-9a-f]+))?"
)
_CLAUSE = re.compile(r"(?:(all|some|perhaps) )?(\w+)")


class GrammarError(HarnessError):
    """A text that is no promise; says why."""


@dataclass(frozen=True)
class Called:
    """The promise of one call. `verdict` is ``ok``, an errno's name or a signal's.

    `progress` is (pages done, pages left) where the verdict does not say it; the others are bytes
    that a field moved, None for as it should.
    """

    verdict: str
    firmware: str = ""
    progress: tuple[int, int] | None = None
    source: int | None = None
    gpa: int | None = None
    size: int | None = None

    def admits(self, step: Step) -> bool:
        """Whether a step is the call that was promised."""
        return shown(step) == self

    def __str__(self) -> str:
        text = self.verdict
        if self.firmware:
            text += f" fw={self.firmware}"
        if self.progress is not None:
            text += f" +{self.progress[0]} left {self.progress[1]}"
        for name, moved in (("source", self.source), ("gpa", self.gpa), ("size", self.size)):
            if moved is not None:
                text += f" {name} {moved:+#x}"
        return text


@dataclass(frozen=True)
class Tallied:
    """The promise of many calls: errno names (or ``ok``) that occur, and others that may."""

    required: frozenset[str]
    optional: frozenset[str] = frozenset()

    def admits(self, step: Step) -> bool:
        """Whether everything required occurred, and nothing that is not allowed."""
        return isinstance(step, Tally) and (
            self.required <= step.names <= self.required | self.optional
        )

    def __str__(self) -> str:
        required, optional = _ordered(self.required), _ordered(self.optional)
        if not required:
            return "none"
        if len(required) > 1:
            clauses = [f"some {name}" for name in required]
        else:
            clauses = [required[0] if optional else f"all {required[0]}"]
        return ", ".join([*clauses, *(f"perhaps {name}" for name in optional)])


@dataclass(frozen=True)
class Established:
    """The promise of a fact's answer."""

    answer: str

    def admits(self, step: Step) -> bool:
        """Whether a step is the fact that was promised."""
        return shown(step) == self

    def __str__(self) -> str:
        return f"= {self.answer}"


Promise = Called | Tallied | Established


@cache
def parse(text: str) -> Promise:
    """Return the promise that a contract's text makes. GrammarError for what is none."""
    promise = _parse(text)
    if str(promise) != text:
        raise GrammarError(f"{text!r} is written {str(promise)!r}")
    return promise


def shown(step: Step) -> Promise:
    """Return the narrowest promise that a step keeps."""
    if isinstance(step, Fact):
        return Established(step.answer)
    if isinstance(step, Tally):
        return Tallied(step.names)
    return Called(
        step.signal or errno_name(step.errno),
        (step.fw_error_name or hex(step.fw_error)) if step.fw_error else "",
        None if step.whole else (step.done or 0, step.left or 0),
        step.source_moved,
        step.gpa_moved,
        step.size_moved,
    )


def words(step: Step) -> str:
    """Return what a step showed, in a contract's words."""
    return str(shown(step))


def alike(one: Step, other: Step) -> bool:
    """Whether two steps show the same.

    Of many calls a race decides which errno comes up: there the same is what shows nothing that the
    other does not show as well.
    """
    if isinstance(one, Tally) and isinstance(other, Tally) and one.names and other.names:
        return one.names <= other.names or other.names <= one.names
    return shown(one) == shown(other)


def _parse(text: str) -> Promise:
    if text.startswith("= "):
        if not is_answer(text[2:]):
            raise GrammarError(f"{text!r}: no fact has this answer")
        return Established(text[2:])
    if text == "none" or ", " in text or text.startswith(("all ", "some ", "perhaps ")):
        return _tally(text)
    match = _CALL.fullmatch(text)
    if match is None:
        raise GrammarError(f"{text!r} says nothing of a call, of many, or of a fact")
    verdict, firmware = match["verdict"], match["firmware"] or ""
    if verdict not in SIGNALS:
        _check_errno(verdict, text)
    if firmware and not _is_firmware(firmware):
        raise GrammarError(f"{text!r}: no firmware or TDX module has the code {firmware}")
    return Called(
        verdict,
        firmware,
        (int(match["done"]), int(match["left"])) if match["done"] else None,
        *(int(match[name], 16) if match[name] else None for name in ("source", "gpa", "size")),
    )


def _tally(text: str) -> Tallied:
    required: set[str] = set()
    optional: set[str] = set()
    for clause in text.split(", ") if text != "none" else []:
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise GrammarError(f"{text!r}: {clause!r} is no errno's name, nor ok")
        _check_errno(match[2], text)
        (optional if match[1] == "perhaps" else required).add(match[2])
    if optional and not required:
        raise GrammarError(f"{text!r}: something has to occur, or nothing could break it")
    return Tallied(frozenset(required), frozenset(optional))


def _check_errno(name: str, text: str) -> None:
    unnamed = name.isdecimal() and int(name) not in errno.errorcode and int(name)
    if name != "ok" and name not in _ERRNOS and not unnamed:
        raise GrammarError(f"{text!r}: {name} is no errno's name")


def _is_firmware(name: str) -> bool:
    known = name in firmware_names().values() or is_status_name(name)
    return known or bool(re.fullmatch(r"0x[0-9a-f]+", name))


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (name != "ok", name))
