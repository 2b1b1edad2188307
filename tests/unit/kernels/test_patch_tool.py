# SPDX-License-Identifier: MIT
"""What patch(1) says, file by file: fuzz is told, a reject is an error that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmharness.kernels import patch_tool
from kvmharness.kernels.patch_tool import DoesNotApply, apply, parse_output
from kvmharness.kernels.patches import Patch, parse

from .test_patches import diff

KVM = "virt/kvm/x.c"
LINES = [f"line {number}\n" for number in range(1, 21)]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree of one file; patch(1) is the machine's own."""
    import shutil

    if shutil.which("patch") is None:
        pytest.skip("patch is not installed")
    monkeypatch.setattr(patch_tool, "_tool", lambda: [shutil.which("patch")])
    (tmp_path / KVM).parent.mkdir(parents=True)
    (tmp_path / KVM).write_text("".join(LINES))
    return tmp_path


def changing(number: int, *, context: str = "line {}") -> Patch:
    """Return a patch that changes one line, with three lines of context on both sides."""
    around = [*range(number - 3, number), *range(number + 1, number + 4)]
    said = {n: f" {context.format(n) if n == number - 3 else f'line {n}'}\n" for n in around}
    said[number] = f"-line {number}\n+new\n"
    body = "".join(said[n] for n in sorted(said))
    text = f"--- a/{KVM}\n+++ b/{KVM}\n@@ -{number - 3},7 +{number - 3},7 @@\n{body}"
    return parse("KVM: change", text, "a.patch")


def test_a_patch_that_fits_is_applied_without_a_word(tree: Path) -> None:
    assert apply(changing(10), tree, "7.3.4").fuzz == ()
    assert (tree / KVM).read_text().splitlines()[9] == "new"
    assert [path.name for path in (tree / KVM).parent.iterdir()] == ["x.c"]


def test_fuzz_is_said_by_file_and_hunk(tree: Path) -> None:
    applied = apply(changing(10, context="other {}"), tree, "7.3.4")
    assert applied.fuzz == (f"{KVM}: hunk 1 fits at line 7 with fuzz 1",)


def test_a_hunk_that_does_not_fit_names_file_and_line(tree: Path) -> None:
    patch = parse("KVM: change", diff(KVM, "three\nfour\n", "four\n"), "a.patch")
    with pytest.raises(
        DoesNotApply,
        match=rf"'KVM: change' does not apply to 7\.3\.4: {KVM}: hunk 1 does not fit near line 1",
    ):
        apply(patch, tree, "7.3.4")


def test_a_patch_that_is_in_already_is_said_to_be(tree: Path) -> None:
    apply(changing(10), tree, "7.3.4")
    with pytest.raises(DoesNotApply, match=f"{KVM}: it is in this kernel already, or reversed"):
        apply(changing(10), tree, "7.3.4")


def test_a_file_that_the_kernel_lacks_is_named(tree: Path) -> None:
    with pytest.raises(DoesNotApply, match=r"virt/kvm/later\.c: this kernel has no such file"):
        apply(parse("t", diff("virt/kvm/later.c"), "a.patch"), tree, "7.3.4")


def test_nothing_is_written_outside_the_tree(tree: Path) -> None:
    with pytest.raises(DoesNotApply, match="names a file in an odd way"):
        apply(parse("t", diff("virt/kvm/../../../x.c"), "a.patch"), tree, "7.3.4")


def test_what_is_not_kvms_is_not_given_to_patch(tree: Path) -> None:
    assert apply(parse("t", diff("MAINTAINERS"), "a.patch"), tree, "7.3.4").fuzz == ()


def test_each_file_has_its_own_lines() -> None:
    fuzz, failed = parse_output(
        "patching file virt/kvm/a.c\n"
        "Hunk #2 succeeded at 40 with fuzz 2 (offset 12 lines).\n"
        "patching file virt/kvm/b.c\n"
        "Hunk #1 FAILED at 7.\n"
        "1 out of 1 hunk FAILED\n"
    )
    assert fuzz == ["virt/kvm/a.c: hunk 2 fits at line 40 with fuzz 2"]
    assert failed == ["virt/kvm/b.c: hunk 1 does not fit near line 7"]
