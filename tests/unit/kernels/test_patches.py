# SPDX-License-Identifier: MIT
"""What a diff changes: which of it is KVM's, which is not built, which is refused by name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kvmharness.errors import UsageError
from kvmharness.kernels.patches import Patch, configures, not_built, parse


def diff(path: str, before: str = "one\ntwo\n", after: str = "one\n2\n") -> str:
    """Return a diff of a file of two lines, as git makes it."""
    old = "".join(f"-{line}\n" for line in before.splitlines())
    new = "".join(f"+{line}\n" for line in after.splitlines())
    return (
        f"diff --git a/{path} b/{path}\nindex 814f4a4..2f5e0f1 100644\n--- a/{path}\n+++ b/{path}\n"
        f"@@ -1,{len(before.splitlines())} +1,{len(after.splitlines())} @@ head()\n{old}{new}"
    )


def patch(*paths: str) -> Patch:
    return parse("title", "Words.\n---\n stat\n\n" + "".join(map(diff, paths)), "a.patch")


@pytest.mark.parametrize(
    "path",
    [
        "virt/kvm/guest_memfd.c",
        "arch/x86/kvm/svm/sev.c",
        "arch/x86/kvm/Kconfig",
        "include/linux/kvm_host.h",
        "include/uapi/linux/kvm.h",
        "include/trace/events/kvm.h",
        "arch/x86/include/asm/kvm_host.h",
        "arch/x86/include/asm/kvm-x86-ops.h",
        "arch/x86/include/uapi/asm/kvm.h",
        "arch/x86/include/asm/svm.h",
    ],
)
def test_what_is_kvms_is_applied(path: str) -> None:
    (change,) = patch(path).applied
    assert (change.path, change.outside) == (path, False)
    assert f"+++ b/{path}\n@@ -1,2 +1,2 @@ head()\n-one\n-two\n+one\n+2\n" in change.text


@pytest.mark.parametrize(
    "path",
    [
        "mm/filemap.c",
        "include/linux/mm.h",
        "include/linux/kvm_para.h",
        "arch/x86/kernel/kvm.c",
        "arch/x86/include/asm/tdx.h",
        "arch/x86/virt/vmx/tdx/tdx.c",
        "drivers/crypto/ccp/sev-dev.c",
        "virt/lib/irqbypass.c",
        "tools.c",
    ],
)
def test_what_is_built_in_elsewhere_is_outside(path: str) -> None:
    found = patch("virt/kvm/kvm_main.c", path)
    assert [change.path for change in found.changes if change.outside] == [path]
    assert [change.path for change in found.applied] == ["virt/kvm/kvm_main.c"]


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("tools/testing/selftests/kvm/guest_memfd_test.c", "selftests and tools"),
        ("Documentation/virt/kvm/api.rst", "documentation"),
        ("MAINTAINERS", "documentation"),
        ("arch/arm64/kvm/mmu.c", "arm64 code"),
    ],
)
def test_what_no_x86_kernel_is_built_from_is_left_out(path: str, what: str) -> None:
    found = patch(path)
    assert not_built(path) == what
    assert (found.applied, found.changes[0].outside) == ((), False)


def test_only_a_kconfig_of_kvms_configures_it() -> None:
    assert configures("arch/x86/kvm/Kconfig")
    assert not configures("virt/kvm/guest_memfd.c")
    assert not configures("mm/Kconfig")


def test_new_deleted_and_moved_files_are_what_they_are(tmp_path: Path) -> None:
    """What git says of them, patch(1) does."""

    def git(*arguments: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(tmp_path)]
        done = subprocess.run(
            ["git", *own, *arguments], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout

    git("init", "-q")
    kvm = tmp_path / "virt/kvm"
    kvm.mkdir(parents=True)
    (kvm / "gone.c").write_text("gone\n")
    (kvm / "old.c").write_text("".join(f"line {number}\n" for number in range(20)))
    git("add", ".")
    git("commit", "-qm", "before")
    (kvm / "gone.c").unlink()
    (kvm / "old.c").rename(kvm / "moved.c")
    (kvm / "new.c").write_text("new\n")
    git("add", "-A")
    found = parse("title", git("diff", "--cached", "-M"), "a.patch")
    assert {change.path for change in found.changes} == {
        "virt/kvm/gone.c",
        "virt/kvm/moved.c",
        "virt/kvm/new.c",
    }
    assert [c.old_path for c in found.changes if c.old_path] == ["virt/kvm/old.c"]
    git("reset", "-q", "--hard")
    subprocess.run(
        ["git", "-C", str(tmp_path), "apply"], input=found.text, text=True, check=True, timeout=30
    )
    assert sorted(path.name for path in kvm.iterdir()) == ["moved.c", "new.c"]


def test_a_file_moved_out_of_the_image_is_outside() -> None:
    text = (
        "diff --git a/mm/x.c b/virt/kvm/x.c\nsimilarity index 100%\n"
        "rename from mm/x.c\nrename to virt/kvm/x.c\n"
    )
    (change,) = parse("title", text, "a.patch").changes
    assert change.outside


def test_names_without_prefixes_are_names() -> None:
    text = diff("virt/kvm/x.c").replace("a/virt", "virt").replace("b/virt", "virt")
    (change,) = parse("title", text, "a.patch").applied
    assert change.path == "virt/kvm/x.c"
    assert "--- a/virt/kvm/x.c\n+++ b/virt/kvm/x.c\n" in change.text


def test_binary_files_and_links_are_odd() -> None:
    binary = (
        "diff --git a/virt/kvm/x b/virt/kvm/x\nindex 1..2 100644\n"
        "Binary files a/virt/kvm/x and b/virt/kvm/x differ\n"
    )
    link = (
        "diff --git a/virt/kvm/l b/virt/kvm/l\nnew file mode 120000\nindex 0000000..2f5e0f1\n"
        "--- /dev/null\n+++ b/virt/kvm/l\n@@ -0,0 +1 @@\n+/etc/passwd\n"
    )
    odd = [change.odd for change in parse("title", binary + link, "a.patch").changes]
    assert odd == ["a binary file", "a symbolic link or submodule"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("+2\n", "2\n"),
        lambda text: text.replace("+one\n+2\n", ""),
    ],
)
def test_a_damaged_diff_says_where_it_was_read(damage: object) -> None:
    assert callable(damage)
    with pytest.raises(UsageError, match=r"a\.patch: the diff of 'title' is damaged"):
        parse("title", damage(diff("virt/kvm/x.c")), "a.patch")


def test_words_alone_are_no_patch() -> None:
    assert parse("title", "Just words.\n--- and a dash\n", "a.patch").changes == ()
