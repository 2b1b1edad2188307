# SPDX-License-Identifier: MIT
"""Series with known faults, made out of a kernel's own source: one for each kind of fault."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

#: A change: the file, a text that is in it, and what takes its place.
Edit = tuple[str, str, str]
#: A title, and what the patch changes.
PlantedPatch = tuple[str, Sequence[Edit]]

GMEM = "virt/kvm/guest_memfd.c"
SEV = "arch/x86/kvm/svm/sev.c"
TDX = "arch/x86/kvm/vmx/tdx.c"
HOST = "include/linux/kvm_host.h"
PUT = "out_put_folio:\n\tfolio_put(folio);\nout_unlock:\n"
_LOCKS = "\tmutex_lock(&kvm->slots_lock);\n\n\tfilemap_invalidate_lock(inode->i_mapping);"
_RANGE = "(region.nr_pages << PAGE_SHIFT) - 1))\n\t\treturn -EINVAL;\n"
_UNLOCKED = "\tfolio_unlock(folio);\n\n\tif (!kvm_range_has_memory_attributes("
_DECLARED = "\tkvm_pfn_t pfn;\n\tint ret;\n\n\tfilemap_invalidate_lock(file->f_mapping);\n"
UNALIGNED = "\telse if (!params.uaddr || !PAGE_ALIGNED(params.uaddr))\n\t\treturn -EINVAL;\n"

SERIES: Mapping[str, Sequence[PlantedPatch]] = {
    "comment": [
        ("KVM: guest_memfd: Say what populate does", [(GMEM, PUT, "/* Done. */\n" + PUT)]),
    ],
    "errno": [
        (
            "KVM: SEV: Another errno for a source that is not aligned",
            [(SEV, UNALIGNED, UNALIGNED.replace("EINVAL", "EDOM"))],
        ),
    ],
    "check": [
        (
            "KVM: SEV: Do without a check of the source",
            [
                (SEV, UNALIGNED, ""),
                (GMEM, "\tif (WARN_ON_ONCE(!PAGE_ALIGNED(src)))\n\t\treturn -EINVAL;\n\n", ""),
            ],
        ),
    ],
    "leak": [
        (
            "KVM: guest_memfd: Forget a reference to what was populated",
            [(GMEM, PUT, PUT.replace("\tfolio_put", "\tif (ret)\n\t\tfolio_put"))],
        ),
    ],
    "unlock": [
        (
            "KVM: guest_memfd: Keep the lock where populate fails",
            [(GMEM, PUT, PUT.replace("out_unlock", "\tif (ret)\n\t\treturn ret;\nout_unlock"))],
        ),
    ],
    "order": [
        (
            "KVM: guest_memfd: Take a file's lock before its VM's",
            [(GMEM, _LOCKS, "\n".join(reversed(_LOCKS.split("\n\n"))))],
        ),
    ],
    "warning": [
        (
            "KVM: guest_memfd: Warn of every page",
            [(GMEM, _UNLOCKED, _UNLOCKED.replace("\n\n", "\n\tWARN_ON_ONCE(folio);\n\n"))],
        ),
    ],
    "header": [
        (
            "KVM: Count something in struct kvm",
            [(HOST, "struct kvm {\n", "struct kvm {\n\tunsigned long planted;\n")],
        ),
    ],
    "tdx": [
        (
            "KVM: TDX: Another errno for a range that can't be",
            [(TDX, _RANGE, _RANGE.replace("EINVAL", "EDOM"))],
        ),
    ],
    "three": [
        ("KVM: guest_memfd: Say what populate does", [(GMEM, PUT, "/* Done. */\n" + PUT)]),
        (
            "KVM: guest_memfd: Leave a variable unused",
            [(GMEM, _DECLARED, _DECLARED.replace("\tint ret", "\tint unused;\n\tint ret"))],
        ),
        (
            "KVM: guest_memfd: Use it after all",
            [(GMEM, "\tint unused;\n", "\tint unused __maybe_unused;\n")],
        ),
    ],
    "third": [
        ("KVM: guest_memfd: Say what populate does", [(GMEM, PUT, "/* Done. */\n" + PUT)]),
        ("KVM: guest_memfd: Say more", [(GMEM, "/* Done. */\n", "/* All done. */\n")]),
        (
            "KVM: SEV: Another errno for a source that is not aligned",
            [(SEV, UNALIGNED, UNALIGNED.replace("EINVAL", "EDOM"))],
        ),
        ("KVM: guest_memfd: Say less", [(GMEM, "/* All done. */\n", "/* Done. */\n")]),
    ],
}


def write(patches: Sequence[PlantedPatch], trees: Sequence[Path], directory: Path) -> list[str]:
    """Write a series as git format-patch would, and return its files.

    `trees`: where the kernel's source is: KVM's part of it, and its headers.
    """
    edited: dict[str, str] = {}
    files = []
    for number, (title, edits) in enumerate(patches, 1):
        text = ""
        for path, old, new in edits:
            place = next(top / path for top in trees if (top / path).exists())
            before = edited.get(path) or place.read_text()
            assert before.count(old) == 1, f"{path}: {before.count(old)} times {old!r}"
            edited[path] = before.replace(old, new)
            old_lines, new_lines = (t.splitlines(keepends=True) for t in (before, edited[path]))
            text += f"diff --git a/{path} b/{path}\n"
            text += "".join(difflib.unified_diff(old_lines, new_lines, f"a/{path}", f"b/{path}"))
        file = directory / f"{number:04}.patch"
        file.write_text(mail(f"[PATCH {number}/{len(patches)}] {title}", text))
        files.append(str(file))
    return files


def mail(subject: str, diff: str) -> str:
    """Return a patch as git format-patch writes it."""
    return (
        "From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001\n"
        f"From: A Developer <developer@example.org>\nDate: Thu, 26 Nov 2026 10:00:00 +0000\n"
        f"Subject: {subject}\n\nWhy.\n\nSigned-off-by: A Developer <developer@example.org>\n---\n"
        f" a file | 2 +-\n\n{diff}-- \n2.39.5\n\n"
    )
