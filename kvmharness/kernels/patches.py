# SPDX-License-Identifier: MIT
"""A patch as data: which files it changes, in which of KVM's modules, and its text for patch(1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from kvmharness.errors import UsageError

#: Directories whose files are built into KVM's modules.
BUILT = ("arch/x86/kvm/", "virt/kvm/")
# Headers of KVM's own: what they say is for those modules, and the packaged kernel's image takes
# nothing from them that a series may change. The guest's half (kvm_para.h) is the image's.
_HEADERS = (
    *("include/linux/kvm_*.h", "include/uapi/linux/kvm*.h", "include/trace/events/kvm.h"),
    *("include/kvm/iodev.h", "arch/x86/include/asm/kvm*.h", "arch/x86/include/asm/svm.h"),
    *("arch/x86/include/asm/vmx.h", "arch/x86/include/uapi/asm/kvm*.h"),
    *("arch/x86/include/uapi/asm/svm.h", "arch/x86/include/uapi/asm/vmx.h"),
)
_GUESTS = ("include/linux/kvm_para.h", "arch/x86/include/asm/kvm_para.h")
#: What no x86 kernel is built from, and how it is called.
_NOT_BUILT = {
    "tools/": "selftests and tools",
    "Documentation/": "documentation",
    "samples/": "samples",
    "MAINTAINERS": "documentation",
    "CREDITS": "documentation",
    ".mailmap": "documentation",
}
_TOP = (
    *("arch", "block", "certs", "crypto", "Documentation", "drivers", "fs", "include", "init"),
    *("io_uring", "ipc", "kernel", "lib", "LICENSES", "mm", "net", "rust", "samples", "scripts"),
    *("security", "sound", "tools", "usr", "virt"),
)
_DIFF = re.compile(r"^(?:diff --git |--- \S.*\n\+\+\+ \S)", re.MULTILINE)


@dataclass(frozen=True)
class FileChange:
    """What a patch does to one file. `text` is what patch(1) reads, with ``a/`` and ``b/``."""

    path: str
    text: str
    old_path: str = ""  # another one, for a file that is moved or copied
    odd: str = ""  # why patch(1) can't do it: it is binary, or a link

    @property
    def outside(self) -> bool:
        """Whether the file is built into the kernel's image or into modules that are not KVM's."""
        return any(not _is_kvms(path) and not not_built(path) for path in self.paths)

    @property
    def paths(self) -> tuple[str, ...]:
        """The file's name, and the one it had."""
        return (self.path, *filter(None, (self.old_path,)))


@dataclass(frozen=True)
class Patch:
    """One patch of a series."""

    title: str
    changes: tuple[FileChange, ...]

    @property
    def applied(self) -> tuple[FileChange, ...]:
        """The changes that have a part in KVM's modules."""
        return tuple(c for c in self.changes if not c.outside and not not_built(c.path))

    @property
    def text(self) -> str:
        """What of it patch(1) is given."""
        return "".join(change.text for change in self.applied)


def not_built(path: str) -> str:
    """Return how a file that no x86 kernel is built from is called; empty for all others."""
    for beginning, words in _NOT_BUILT.items():
        if path == beginning or (beginning.endswith("/") and path.startswith(beginning)):
            return words
    other = re.match(r"arch/(?!x86/)([a-z0-9_]+)/", path)
    return f"{other[1]} code" if other else ""


def configures(path: str) -> bool:
    """Whether a file of KVM's only configures it: the packaged configuration stays as it is."""
    return _is_kvms(path) and path.rpartition("/")[2] == "Kconfig"


def _is_kvms(path: str) -> bool:
    if path.startswith(BUILT):
        return True
    return path not in _GUESTS and any(fnmatchcase(path, header) for header in _HEADERS)


def parse(title: str, text: str, origin: str) -> Patch:
    """Return the patch whose diff is in `text`, behind any message.

    `origin`: where it was read, for the UsageError that a damaged diff gets. A text without a diff
    makes a patch without changes.
    """
    from unidiff.errors import UnidiffParseError
    from unidiff.patch import PatchSet

    begin = _DIFF.search(text)
    if begin is None:
        return Patch(title, ())
    try:
        files = PatchSet(text[begin.start() :].splitlines(keepends=True))
    except UnidiffParseError as error:
        said = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"{origin}: the diff of {title!r} is damaged ({said}); a mail program that wraps lines "
            "or changes tabs does that"
        ) from None
    return Patch(title, tuple(_changes(files)))


def _changes(files: Iterable[object]) -> Iterator[FileChange]:
    from unidiff.patch import PatchedFile

    for file in files:
        assert isinstance(file, PatchedFile)
        old, new = (_path(str(name)) for name in (file.source_file, file.target_file))
        info = [str(line) for line in file.patch_info or ()]
        path = new or old
        if file.is_binary_file:
            yield FileChange(path, "", odd="a binary file")
            continue
        if file.is_symlink or file.is_submodule:
            yield FileChange(path, "", odd="a symbolic link or submodule")
            continue
        moved = bool(old and new and old != new)
        hunks = "".join(str(hunk) for hunk in file)
        if not hunks and not moved:
            continue  # a mode alone
        head = [f"diff --git a/{old or new} b/{new or old}"]
        if moved:
            how = "copy" if any(line.startswith("copy from ") for line in info) else "rename"
            head += [f"{how} from {old}", f"{how} to {new}"]
        if hunks:
            head.append(f"--- {f'a/{old}' if old else '/dev/null'}")
            head.append(f"+++ {f'b/{new}' if new else '/dev/null'}")
        text = "".join(f"{line}\n" for line in head) + hunks
        yield FileChange(path, text, old if moved else "")


def _path(name: str) -> str:
    """Return a name of a diff without what stands before the tree; empty for no file."""
    if name == "/dev/null":
        return ""
    first, slash, rest = name.partition("/")
    # git's diff.noprefix leaves nothing before it.
    return rest if slash and first not in _TOP else name
