# SPDX-License-Identifier: MIT
"""A series out of what people have: an mbox in any order, files, a directory, git, the list."""

from __future__ import annotations

import gzip
import os
import subprocess
from email.message import EmailMessage
from pathlib import Path

import pytest

from kvmharness.errors import MissingCapability, UsageError
from kvmharness.kernels import series
from kvmharness.kernels.series import Series, read

from .test_patches import diff

FROM = "From mboxrd@z Thu Jan  1 00:00:00 1970\n"
KVM = "virt/kvm/guest_memfd.c"


def mail(subject: str, body: str = "") -> str:
    return f"From: A <a@example.org>\nSubject: {subject}\nMessage-ID: <1@example.org>\n\n{body}"


def patch_mail(subject: str, path: str = KVM) -> str:
    return mail(
        subject, f"Why.\n\nFrom now on it is so.\n---\n {path}\n\n{diff(path)}-- \n2.39.5\n\n"
    )


def mbox(path: Path, *mails: str) -> str:
    path.write_text("".join(FROM + text for text in mails))
    return str(path)


def titles(found: Series) -> list[str]:
    return [patch.title for patch in found.patches]


def test_an_mbox_is_put_in_order_and_talk_is_left_out(tmp_path: Path) -> None:
    file = mbox(
        tmp_path / "t.mbox",
        mail("[PATCH v2 0/3] KVM: all of it", "Cover.\n"),
        patch_mail("[PATCH v2 3/3] KVM: three"),
        mail("Re: [PATCH v2 1/3] KVM: one", f"> quoted\n\nLike this?\n\n{diff(KVM)}"),
        patch_mail("[PATCH v2 1/3] KVM: a title that\n goes on"),
        patch_mail("[RFC PATCH v2 2/3] KVM: two"),
    )
    found = read([file])
    assert titles(found) == ["KVM: a title that goes on", "KVM: two", "KVM: three"]
    assert (found.name, found.notes, found.refusal()) == ("t.mbox", (), "")


def test_a_compressed_mbox_is_read(tmp_path: Path) -> None:
    file = tmp_path / "t.mbox.gz"
    file.write_bytes(gzip.compress((FROM + patch_mail("[PATCH] KVM: one")).encode()))
    assert titles(read([str(file)])) == ["KVM: one"]


def test_the_newest_version_in_an_mbox_is_taken_and_it_is_said(tmp_path: Path) -> None:
    file = mbox(
        tmp_path / "t.mbox",
        patch_mail("[PATCH 1/1] KVM: first try"),
        patch_mail("[PATCH v3 1/1] KVM: third try"),
    )
    found = read([file])
    assert titles(found) == ["KVM: third try"]
    assert found.notes == (f"{file} holds v1 as well: v3 is taken",)


def test_a_patch_missing_from_an_mbox_is_named(tmp_path: Path) -> None:
    mails = [patch_mail(f"[PATCH {number}/4] KVM: {number}") for number in (1, 4)]
    with pytest.raises(UsageError, match="of 4 patches, 2, 3 can't be found in it"):
        read([mbox(tmp_path / "t.mbox", *mails)])


def test_a_patch_that_is_there_twice_is_named(tmp_path: Path) -> None:
    mails = [patch_mail("[PATCH 1/1] KVM: one"), patch_mail("[PATCH 1/1] KVM: another")]
    with pytest.raises(UsageError, match="patch 1 is there twice"):
        read([mbox(tmp_path / "t.mbox", *mails)])


def test_a_patch_without_its_diff_is_named(tmp_path: Path) -> None:
    mails = [mail("[PATCH 1/1] KVM: one", "Words.\n")]
    with pytest.raises(UsageError, match=r"patch 1/1, 'KVM: one', has no diff"):
        read([mbox(tmp_path / "t.mbox", *mails)])


def test_files_and_directories_are_sorted_by_their_numbers(tmp_path: Path) -> None:
    for name, number in (("a.patch", 2), ("b.patch", 1)):
        (tmp_path / name).write_text(patch_mail(f"[PATCH {number}/2] KVM: {number}"))
    (tmp_path / "0000-cover-letter.patch").write_text(mail("[PATCH 0/2] KVM: all", "Cover.\n"))
    (tmp_path / "notes.txt").write_text("not a patch")
    files = [str(tmp_path / name) for name in ("a.patch", "b.patch")]
    assert titles(read(files)) == titles(read([str(tmp_path)])) == ["KVM: 1", "KVM: 2"]
    assert (read(files).name, read([str(tmp_path)]).name) == ("a.patch-1-more", tmp_path.name)


def test_files_without_numbers_keep_their_order(tmp_path: Path) -> None:
    for name in ("b.diff", "a.diff"):
        (tmp_path / name).write_text(diff(KVM))
    files = [str(tmp_path / name) for name in ("b.diff", "a.diff")]
    assert titles(read(files)) == ["b.diff", "a.diff"]


def test_one_file_of_a_series_says_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "2.patch").write_text(patch_mail("[PATCH 2/3] KVM: two"))
    assert read([str(tmp_path / "2.patch")]).notes == ("of 3 patches, 1, 3 are not here",)


def test_commits_of_a_git_tree_are_read(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        own = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *own, *arguments], cwd=tmp_path, check=True, timeout=30)

    (tmp_path / "virt/kvm").mkdir(parents=True)
    git("init", "-q", "-b", "main")
    for number in range(3):
        (tmp_path / KVM).write_text(f"{number}\n")
        git("add", ".")
        git("commit", "-qm", f"KVM: {number}")
    git("config", "diff.noprefix", "true")
    found = read([f"{tmp_path}@main~2..main"])
    assert (titles(found), found.name) == (["KVM: 1", "KVM: 2"], "main~2..main")
    with pytest.raises(UsageError, match="no commit is in that range"):
        read([f"{tmp_path}@main..main"])
    with pytest.raises(UsageError, match=r"git: .*nowhere\.\.main"):
        read([f"{tmp_path}@nowhere..main"])


def test_a_message_id_is_fetched_with_b4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingCapability, match="a message id takes b4"):
        read(["20251113230759.1@example.org"])
    (tmp_path / "there").write_text(FROM + patch_mail("[PATCH 1/1] KVM: one"))
    b4 = tmp_path / "b4"
    b4.write_text(
        f'#!/bin/sh\n[ "$*" = "--quiet am -o - <x@example.org>" ] && cat {tmp_path}/there\n'
    )
    b4.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    found = read(["<x@example.org>"])
    assert (titles(found), found.name) == (["KVM: one"], "x@example.org")


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable"])
def test_a_mail_in_another_transfer_encoding_is_decoded(encoding: str, tmp_path: Path) -> None:
    text = EmailMessage()
    text["Subject"] = "[PATCH] KVM: =?utf-8?q?J=C3=B6rg?="
    changed = diff(KVM, after="ö = 1\n")
    text.set_content(f"Jörg's.\n---\n\n{changed}", cte=encoding)
    (tmp_path / "a.patch").write_bytes(bytes(text))
    (patch,) = read([str(tmp_path / "a.patch")]).patches
    assert "+ö = 1\n" in patch.text


@pytest.mark.parametrize("name", ["nothing.mbox", "no such file"])
def test_what_is_not_there_says_what_a_series_is(name: str) -> None:
    with pytest.raises(UsageError, match=r"no such file; a series is an mbox, \.patch files"):
        read([name])


def test_a_file_or_directory_without_a_patch_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words\n")
    with pytest.raises(UsageError, match="there is no patch in it"):
        read([str(tmp_path / "a.txt")])
    with pytest.raises(UsageError, match=r"no \.patch, \.diff or \.mbox file is in it"):
        read([str(tmp_path)])


def test_a_hunk_in_the_image_is_refused_by_name_with_the_way_that_works(tmp_path: Path) -> None:
    files = []
    for number, path in enumerate((KVM, "mm/filemap.c", "drivers/crypto/ccp/sev-dev.c")):
        (tmp_path / f"{number}.diff").write_text(diff(path))
        files.append(str(tmp_path / f"{number}.diff"))
    said = read(files).refusal()
    assert said.startswith("mm/filemap.c, drivers/crypto/ccp/sev-dev.c: not in virt/kvm")
    assert "build a tree with the series and give its path" in said
    assert read(files[:1]).refusal() == ""


def test_a_series_of_documentation_alone_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.diff").write_text(diff("Documentation/virt/kvm/api.rst"))
    found = read([str(tmp_path / "a.diff")])
    assert found.ignored == {"Documentation/virt/kvm/api.rst": "documentation"}
    assert "changes nothing that KVM is built from" in found.refusal()


def test_the_digest_is_that_of_what_is_applied(tmp_path: Path) -> None:
    def digest(name: str, *paths: str) -> str:
        (tmp_path / name).write_text("".join(map(diff, paths)))
        return read([str(tmp_path / name)]).digest

    assert digest("a.diff", KVM) == digest("b.diff", KVM, "MAINTAINERS")
    assert digest("a.diff", KVM) != digest("c.diff", "virt/kvm/eventfd.c")


def test_a_single_message_is_a_series_of_one_or_of_none() -> None:
    assert titles(series.of_message(patch_mail("[PATCH 2/2] KVM: two").encode())) == ["KVM: two"]
    assert series.of_message(mail("[PATCH 0/2] KVM: all", "Cover.\n").encode()).patches == ()
