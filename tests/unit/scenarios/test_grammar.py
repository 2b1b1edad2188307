# SPDX-License-Identifier: MIT
"""The contract's words: there and back, what is refused, and what a promise admits."""

from __future__ import annotations

import errno
from collections import Counter

import pytest

from kvmharness.contract import files
from kvmharness.errors import errno_name
from kvmharness.scenarios.grammar import GrammarError, alike, parse, words
from kvmharness.scenarios.outcome import result_of
from kvmharness.scenarios.step import ANSWERS, Call, Fact, Tally

from ..steps import step

TEXTS = (
    *("ok", "EINVAL", "EDEADLK", "EOPNOTSUPP", "524", "SIGBUS", "SIGSEGV"),
    *("EIO fw=INVALID_PARAM", "EBUSY fw=OPERAND_BUSY:TDR", "EIO fw=SEAMCALL_GP", "EIO fw=0x7f"),
    *("ok +2 left 2", "EINVAL +2 left 2", "EIO fw=INVALID_PARAM +1 left 3"),
    *("ok source +0x0", "ok +0 left 4 source -0x1000", "ok gpa +0x1001", "ok size -0x5"),
    "EIO fw=NO_VCPUS +1 left 3 source +0x0 gpa -0x10 size +0x3",
    *("all ok", "all EIO", "some ok, some EIO", "some EINVAL, some EIO", "none"),
    *("ok, perhaps EIO", "EIO, perhaps ok", "ok, perhaps EINVAL, perhaps EIO"),
    "some ok, some EIO, perhaps EINTR",
    *("= 0", "= 12", "= 0x3", "= 64 of 64", "= KVM_EXIT_INTERNAL_ERROR", "= KVM_EXIT 99"),
    *(f"= {answer}" for answer in sorted(ANSWERS)),
)


#: Those that a step can show: what may occur has occurred or not, and 524 has no name here.
SHOWN = [text for text in TEXTS if "perhaps" not in text and text != "524"]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_as_it_was(text: str) -> None:
    assert str(parse(text)) == text


@pytest.mark.parametrize("text", SHOWN)
def test_what_a_step_shows_is_what_was_promised_of_it(text: str) -> None:
    assert words(step(text)) == text


def test_a_promise_admits_what_it_says_and_nothing_else() -> None:
    for promised in SHOWN:
        assert [text for text in SHOWN if parse(promised).admits(step(text))] == [promised]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "says nothing"),
        ("OK", "OK is no errno's name"),
        ("EWRONG", "EWRONG is no errno's name"),
        ("22", "22 is no errno's name"),
        ("SIGILL", "SIGILL is no errno's name"),
        ("ok  ", "says nothing"),
        ("ok +4", "says nothing"),
        ("ok left 0", "says nothing"),
        ("ok source 0x0", "says nothing"),
        ("ok source +0x0010", "is written 'ok source \\+0x10'"),
        ("ok gpa +0x10 source +0x0", "says nothing"),
        ("EIO fw=INVALID_PARAMETER", "has the code INVALID_PARAMETER"),
        ("EBUSY fw=OPERAND_BUSY:XYZ", "has the code OPERAND_BUSY:XYZ"),
        ("ok or EIO", "says nothing"),
        ("all okay", "okay is no errno's name"),
        ("all ok, all EIO", "is written 'some ok, some EIO'"),
        ("some ok", "is written 'all ok'"),
        ("some EIO, some ok", "is written 'some ok, some EIO'"),
        ("ok, perhaps EWRONG", "EWRONG is no errno's name"),
        ("perhaps ok, perhaps EIO", "something has to occur"),
        ("ok; perhaps EIO", "says nothing"),
        ("some ok, a few EIO", "'a few EIO' is no errno's name"),
        ("=corrected", "says nothing"),
        ("= mended", "no fact has this answer"),
        ("= 3 in 4", "no fact has this answer"),
        ("= KVM_EXIT_NOWHERE", "no fact has this answer"),
        ("corrected", "corrected is no errno's name"),
    ],
)
def test_a_text_that_is_no_promise_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(GrammarError, match=complaint):
        parse(text)


@pytest.mark.parametrize(
    ("promise", "admitted", "refused"),
    [
        ("all ok", ["ok"], ["EIO", "ok EIO", ""]),
        ("some ok, some EIO", ["ok EIO"], ["ok", "EIO", "ok EIO EINVAL", ""]),
        ("ok, perhaps EIO", ["ok", "ok EIO"], ["EIO", "ok EINVAL", "ok EIO EINVAL", ""]),
        ("some ok, some EIO, perhaps EINTR", ["ok EIO", "ok EIO EINTR"], ["ok EINTR", "EINTR"]),
        ("none", [""], ["ok"]),
    ],
)
def test_what_has_to_occur_in_many_calls_and_what_may(
    promise: str, admitted: list[str], refused: list[str]
) -> None:
    def tally(names: str) -> Tally:
        return Tally("calls", Counter(names.split()))

    kept = [names for names in admitted + refused if parse(promise).admits(tally(names))]
    assert kept == admitted


def test_one_call_is_not_many_nor_a_fact() -> None:
    call, many, fact = Call("a"), Tally("a", {"ok": 1}), Fact("a", "same")
    assert not parse("ok").admits(many)
    assert not parse("all ok").admits(call)
    assert not parse("= same").admits(call)
    assert not parse("ok").admits(fact)


def test_a_tally_counts_what_came_at_all() -> None:
    assert words(Tally("a", {"ok": 3, "EIO": 0})) == "all ok"


def test_races_are_alike_if_one_shows_nothing_that_the_other_does_not() -> None:
    def tally(*names: str) -> Tally:
        return Tally("calls", dict.fromkeys(names, 2))

    assert alike(tally("ok"), tally("ok", "EIO"))
    assert alike(tally("ok", "EIO"), tally("EIO"))
    assert not alike(tally("ok"), tally("EIO"))
    assert not alike(tally("ok", "EINVAL"), tally("ok", "EIO"))
    assert not alike(tally(), tally("ok"))
    assert alike(Call("a", errno.EIO), Call("b", errno.EIO))
    assert not alike(Call("a", errno.EIO), tally("EIO"))


def test_every_promise_of_the_contract_can_be_kept_and_comes_to_ok_or_an_errno() -> None:
    for row in files.load().rows:
        for each in row.promised:
            steps = [step(str(promise)) for promise in each.outcome]
            assert all(p.admits(shown) for p, shown in zip(each.outcome, steps, strict=True))
            assert result_of(steps) in {"ok", *map(errno_name, errno.errorcode)}
