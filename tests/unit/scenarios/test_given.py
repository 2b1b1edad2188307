# SPDX-License-Identifier: MIT
"""What is said where a firmware or TDX module was given something else than KVM was."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from kvmharness.kvm.mapping import PAGE_SIZE
from kvmharness.measure.vmsa import make_vmsa
from kvmharness.scenarios.outcome import Outcome
from kvmharness.scenarios.snp_bench import SnpBench
from kvmharness.scenarios.step import Call
from kvmharness.scenarios.tdx_bench import TdxBench
from kvmharness.standins import snp, tdx

_CONTENTS = bytes(PAGE_SIZE)
_HASH = hashlib.sha384(_CONTENTS).hexdigest()
_FIELDS = {
    "policy": "0x30000",
    "asid": "1",
    "gosvw": "00" * 16,
    "tsc_khz": "0",
    "migration": "0",
    "imi": "0",
    "finish.flags": "4",
}
_PAGE = snp.GivenPage(PAGE_SIZE, 1, 0, (0, 0, 0), _HASH)
_VMSA = make_vmsa({"rip": 0xFFF0})
_VMSA_PAGE = snp.GivenPage(0xFFFF_FFFF_F000, 2, 0, (0, 0, 0), "22" * 48)


@pytest.fixture
def snp_bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[snp.Given], SnpBench]:
    """A bench that has populated the page at 0x1000, on a host whose firmware was given this."""

    def make(given: snp.Given) -> SnpBench:
        kvm: Any = None
        bench = SnpBench(kvm, Outcome("x"))
        monkeypatch.setattr(snp, "given", lambda: given)
        monkeypatch.setattr("kvmharness.scenarios.snp_bench.guarded_read", lambda *_: _CONTENTS)
        bench.begin_digest()
        bench._follow_digest(Call("x", asked=1, done=1, left=0), 1, 0x10000, 1)
        return bench

    return make


def test_nothing_is_lost_of_a_launch_handed_on_whole(
    snp_bench: Callable[[snp.Given], SnpBench],
) -> None:
    bench = snp_bench(snp.Given(_FIELDS, (_PAGE, _VMSA_PAGE), (_VMSA,)))
    bench.wants(**{"finish.flags": "4"})
    bench.wants_vmsas([_VMSA])
    assert bench.lost() == []


@pytest.mark.parametrize(
    ("pages", "told"),
    [
        ((), "page 0: LAUNCH_UPDATE had"),
        ((_PAGE, _PAGE), "page 1: LAUNCH_UPDATE had None"),
        ((snp.GivenPage(PAGE_SIZE, 1, 0, (1, 0, 0), _HASH),), "(1, 0, 0)"),
        ((snp.GivenPage(PAGE_SIZE, 4, 0, (0, 0, 0), _HASH),), "page 0"),
        ((snp.GivenPage(0, 1, 0, (0, 0, 0), _HASH),), "page 0"),
        ((snp.GivenPage(PAGE_SIZE, 1, 0, (0, 0, 0), "33" * 48),), "3333"),
        ((_PAGE, snp.GivenPage(0, 2, 0, (0, 0, 0), "22" * 48)), "page 1"),
    ],
)
def test_a_page_handed_on_otherwise_is_named(
    pages: tuple[snp.GivenPage, ...],
    told: str,
    snp_bench: Callable[[snp.Given], SnpBench],
) -> None:
    (line,) = snp_bench(snp.Given(_FIELDS, pages, ())).lost()
    assert told in line


def test_a_field_and_a_vmsa_handed_on_otherwise_are_named(
    snp_bench: Callable[[snp.Given], SnpBench],
) -> None:
    other = make_vmsa({"rip": 0x10})
    bench = snp_bench(snp.Given({**_FIELDS, "gosvw": "ff"}, (_PAGE,), (other,)))
    bench.wants_vmsas([_VMSA, _VMSA])
    assert bench.lost() == [
        f"gosvw: KVM was given {'00' * 16}, the firmware ff",
        "there are 2 vCPUs, the firmware had 1 VMSAs",
        "VMSA 0: rip (0x178): 0xfff0 wanted, 0x10 there",
    ]


@pytest.mark.parametrize(
    ("gpa", "state", "large", "told"),
    [
        (PAGE_SIZE, snp.PageState.GUEST_VALID, False, []),
        (PAGE_SIZE, snp.PageState.GUEST_INVALID, False, ["the RMP has 0x1000"]),
        (PAGE_SIZE, snp.PageState.GUEST_VALID, True, ["the RMP has 0x1000"]),
        (0x5000, snp.PageState.GUEST_INVALID, False, []),
        (0x5000, snp.PageState.PRE_GUEST, False, ["the RMP has 0x5000"]),
        (0x5000, snp.PageState.GUEST_VALID, False, ["the RMP has 0x5000"]),
    ],
)
def test_a_page_in_another_state_than_it_was_put_in_is_named(
    gpa: int,
    state: snp.PageState,
    large: bool,
    told: list[str],
    snp_bench: Callable[[snp.Given], SnpBench],
) -> None:
    rmp = {gpa: snp.RmpEntry(state, large)}
    lost = snp_bench(snp.Given(_FIELDS, (_PAGE,), (), rmp)).lost()
    assert [line[: len("the RMP has 0x1000")] for line in lost] == told


def test_a_page_faulted_in_elsewhere_is_named_and_one_that_is_missing(
    snp_bench: Callable[[snp.Given], SnpBench],
) -> None:
    rmp = {0x6000: snp.RmpEntry(snp.PageState.GUEST_INVALID, large=False)}
    bench = snp_bench(snp.Given(_FIELDS, (_PAGE,), (), rmp))
    bench.wants_faulted(0x5000)
    elsewhere, missing = bench.lost()
    assert elsewhere.startswith("the RMP has 0x6000 as")
    assert missing == "the RMP has nothing of 0x5000, which was faulted in"


def test_an_asid_of_sevs_is_named(snp_bench: Callable[[snp.Given], SnpBench]) -> None:
    (line,) = snp_bench(snp.Given({**_FIELDS, "asid": "32"}, (_PAGE,), ())).lost()
    assert line == "the guest's ASID is 32: those of SNP are below 32"


def test_what_was_lost_of_one_launch_is_kept_for_the_next(
    snp_bench: Callable[[snp.Given], SnpBench],
) -> None:
    bench = snp_bench(snp.Given(_FIELDS, (), ()))
    bench.check()
    assert len(bench.lost()) == 1
    bench.begin_digest()
    assert len(bench.lost()) == 1


def test_a_tds_page_and_register_handed_on_otherwise_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kvm: Any = None
    bench = TdxBench(kvm, Outcome("x"))
    monkeypatch.setattr("kvmharness.scenarios.tdx_bench.guarded_read", lambda *_: _CONTENTS)
    fields = dict.fromkeys(("mrconfigid", "mrowner", "mrownerconfig"), "00" * 48)
    whole = tdx.GivenPage(PAGE_SIZE, 0xFFFF, _HASH)
    given = tdx.Given(fields, {}, (), (whole,))
    monkeypatch.setattr(tdx, "given", lambda: given)
    bench.begin_digest()
    bench._follow_mrtd(Call("x", asked=1, done=1, left=0), PAGE_SIZE, 0x10000, True)
    assert bench.lost() == []
    bench.wants(mrowner="11")
    monkeypatch.setattr(tdx, "given", lambda: tdx.Given(fields, {}, (), ()))
    page, register = bench.lost()
    assert page.startswith("page 0: INIT_MEM_REGION had")
    assert register == f"mrowner: KVM was given 11, the module {'00' * 48}"
