# SPDX-License-Identifier: MIT
"""What is promised, why something fails, what a scenario does: contract, explain, scenario."""

from __future__ import annotations

import json

import pytest

from .command import kvmharness


def test_contract_prints_what_a_kernel_promises_with_commit_and_reason() -> None:
    ended = kvmharness("contract", "snp.source.unaligned", "--kernel", "7.2", COLUMNS="200")
    assert ended.status == 0
    assert "EINVAL" in ended.out
    assert "the source has to be page aligned" in ended.out
    assert "dcbcc2323c80" in ended.out
    assert "copied page by page" not in ended.out


def test_contract_tells_the_generations_apart_without_a_kernel() -> None:
    ended = kvmharness("contract", "snp.source.unaligned", "--format", "json")
    rows = json.loads(ended.out)["promises"]
    assert [row["kernels"] for row in rows] == ["before 7.0", "from 7.0"]
    assert [row["promised"][0]["outcome"] for row in rows] == [["ok"], ["EINVAL"]]


def test_a_point_release_is_told_from_its_series() -> None:
    def kernels(release: str) -> list[str]:
        ended = kvmharness(
            "contract", "snp.cpuid.rejected_readonly", "--format", "json", "--kernel", release
        )
        return [row["promised"][0]["outcome"][1] for row in json.loads(ended.out)["promises"]]

    assert kernels("7.1.3") == ["= overwritten"]
    assert kernels("7.1.4+deb13-amd64") == ["= unchanged"]
    assert kernels("7.1") == ["= overwritten", "= unchanged"]


def test_contract_as_a_document() -> None:
    ended = kvmharness("contract", "gmem.bind", "--kernel", "7.2", "--format", "rst")
    assert ended.out.startswith(".. SPDX-License-Identifier: MIT\n\n====")
    assert "``gmem.bind.overlap``\n" in ended.out
    assert "Outcome: ``ok``, then ``EEXIST``, then ``ok``." in ended.out


def test_explain_says_why_and_what_to_do() -> None:
    ended = kvmharness("explain", "KVM_SEV_SNP_LAUNCH_UPDATE", "EIO", "--kernel", "6.12")
    assert ended.status == 0
    first, _, rest = ended.out.partition("\n")
    assert first.startswith("EIO from KVM_SEV_SNP_LAUNCH_UPDATE on Linux 6.12: ")
    assert "snp.range.not_private: a page whose attribute is shared" in rest
    assert "do: set KVM_MEMORY_ATTRIBUTE_PRIVATE on the range" in rest
    assert "fw=INVALID_PARAM: a parameter is not allowed" in rest
    assert "tdx." not in rest


def test_explain_takes_the_end_of_a_name_and_an_errno_in_any_form() -> None:
    whole = kvmharness("explain", "KVM_SEV_SNP_LAUNCH_UPDATE", "EINVAL", "--kernel", "7.0").out
    for errno in ("einval", "22", "-22"):
        arguments = ("explain", "--kernel", "7.0", "--", "launch_update", errno)
        assert kvmharness(*arguments).out == whole
    assert "align the source" in whole


def test_explain_of_an_errno_alone_is_of_any_call() -> None:
    out = kvmharness("explain", "ENOSPC").out
    assert out.startswith("ENOSPC from any call on any kernel: 2 causes")
    assert "tdx.end.out_of_keys" in out
    assert "tdx.failure." in out  # a key that the module would not configure


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["explain", "LAUNCH_UPDAT", "EIO"], 2, "close to it: KVM_SEV_SNP_LAUNCH_UPDATE"),
        (["explain", "LAUNCH_UPDATE", "EINVALID"], 2, "close to it: EINVAL"),
        (["explain", "LAUNCH_START", "EIO"], 2, "may be KVM_SEV_LAUNCH_START, KVM_SEV_SNP_"),
        (["explain", "a", "b", "c"], 2, "one ioctl and one errno"),
        (["explain", "EIO", "--kernel", "new"], 2, "'new' is not a kernel version"),
        (
            ["explain", "INIT_MEM_REGION", "EEXIST", "--kernel", "7.3"],
            1,
            "other kernels do: before",
        ),
        (["explain", "mmap", "EBADF"], 1, "known are EINVAL, ENODEV"),
        (
            ["contract", "snp.sourze"],
            2,
            "no scenario is called 'snp.sourze'; close to it: snp.source",
        ),
        (["contract", "--kernel", "x"], 2, "'x' is not a kernel version"),
        (["scenario", "gmem.bind.overlp"], 2, "close to it: gmem.bind.overlap"),
        (["scenario"], 2, "Missing argument"),
    ],
)
def test_what_is_not_known_is_one_line(args: list[str], status: int, said: str) -> None:
    ended = kvmharness(*args)
    assert (ended.status, ended.out) == (status, "")
    assert said in ended.line


def test_scenario_shows_where_it_is_what_it_needs_and_what_is_promised() -> None:
    ended = kvmharness("scenario", "snp.firmware.nth_page")
    assert ended.status == 0
    assert ended.out.startswith("snp.firmware.nth_page: the firmware refuses the third of four")
    assert "source   kvmharness/scenarios/" in ended.out
    assert "needs    a VM of type snp, standin" in ended.out
    assert "1. KVM_SEV_SNP_LAUNCH_UPDATE: ok +2 left 2" in ended.out


def test_scenario_of_a_part_of_an_id_lists_what_it_means() -> None:
    lines = kvmharness("scenario", "wraps").out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "snp.source.wraps",
        "tdx.source.wraps",
        "tdx.range.wraps",
    ]
    assert kvmharness("scenario", "tdx.range.wraps").out.count("source   ") == 1
