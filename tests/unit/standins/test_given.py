# SPDX-License-Identifier: MIT
"""What the stand-ins record of a launch, read back; and what they are told to have fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.standins import snp, tdx

_SNP = """\
policy=0x30000
tsc_khz=0
pages=2
vmsas=1
page.0=0x1000 3 0 1 2 4 {zero}
page.1=0xfffffffff000 2 0 0 0 0 {one}
vmsa.0=0102
rmp.0x1000=6 0 0
rmp.0xfffffffff000=6 0 1
finish=1
"""
_TDX = """\
attributes=0x10000000
cpuid.0xffffffff80000008=0x1 0x2 0x3 0x4
cpuid.0x100000007=0x5 0 0 0
vcpus=1
pages=1
vcpu.0=0x1234 5
vcpu.0.0x100000002=0xf2
page.0=0x2000 0xffff {one}
"""
_ZERO, _ONE = "00" * 48, "11" * 48


def test_an_snp_launch_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "launch"
    file.write_text(_SNP.format(zero=_ZERO, one=_ONE))
    monkeypatch.setattr(snp, "_LAUNCH", file)
    given = snp.given()
    assert given is not None
    assert given.pages == (
        snp.GivenPage(0x1000, 3, 0, (1, 2, 4), _ZERO),
        snp.GivenPage(0xFFFF_FFFF_F000, 2, 0, (0, 0, 0), _ONE),
    )
    assert given.vmsas == (b"\1\2",)
    assert given.rmp == {0x1000: snp.RmpEntry(snp.PageState.GUEST_VALID, large=False)}
    assert (given.fields["policy"], given.fields["finish"]) == ("0x30000", "1")


def test_a_tds_launch_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "launch"
    file.write_text(_TDX.format(one=_ONE))
    monkeypatch.setattr(tdx, "_LAUNCH", file)
    given = tdx.given()
    assert given is not None
    assert given.cpuid == {(0x80000008, 0xFFFFFFFF): (1, 2, 3, 4), (7, 1): (5, 0, 0, 0)}
    assert given.vcpus == (tdx.GivenVcpu(0x1234, 5, {0x1_0000_0002: 0xF2}),)
    assert given.pages == (tdx.GivenPage(0x2000, 0xFFFF, _ONE),)
    assert given.fields["attributes"] == "0x10000000"


@pytest.mark.parametrize("standin", [snp, tdx])
def test_hardware_has_no_record(
    standin: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standin, "_LAUNCH", tmp_path / "none")
    assert (snp if standin is snp else tdx).given() is None


def test_failures_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snp, "_PARAMETERS", tmp_path)
    snp.inject(
        snp.Failure(snp.FirmwareCall.SNP_LAUNCH_UPDATE, 0x17, after=2),
        snp.Failure(snp.FirmwareCall.SNP_PAGE_RECLAIM, -16, times=3),
    )
    assert (tmp_path / "inject").read_text() == "a1:23:2:1,c7:-16:0:3\n"
    snp.inject()
    assert (tmp_path / "inject").read_text() == "\n"


def test_a_leafs_status_is_hexadecimal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tdx, "_PARAMETERS", tmp_path)
    tdx.inject(tdx.Failure(tdx.Seamcall.PHYMEM_CACHE_WB, 0xC0000300_00000001, times=2))
    assert (tmp_path / "inject").read_text() == "28:c000030000000001:0:2\n"
