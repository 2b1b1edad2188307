# SPDX-License-Identifier: MIT
"""A series of patches, read from what people have: an mbox, files, a directory, git, or the list.

A source is the path of an mbox, of a patch or of a directory of them; ``TREE@BASE..TOPIC`` for
commits of a git tree; with b4 installed a message id.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from kvmharness import process, progress
from kvmharness.errors import MissingCapability, UsageError
from kvmharness.kernels.kernels import decompress
from kvmharness.kernels.patches import FileChange, Patch, not_built, parse

_GIT_DEADLINE = 60.0
_B4_DEADLINE = 300.0
#: Between the messages of an mbox. A line of a message can begin with From, too.
_SEPARATOR = re.compile(
    rb"(?:\A|(?<=\n))From \S+ +\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}[^\n]*\n"
)
_HEADER = re.compile(rb"(?:[A-Za-z][A-Za-z0-9-]*:[ \t][^\n]*\n)")
_TAG = re.compile(r"^\s*\[([^\]]*)\]\s*(.*)$", re.DOTALL)
_MESSAGE_ID = re.compile(r"<?[^@\s/]+@[^@\s/]+\.[^@\s/]+>?|https?://\S+")


@dataclass(frozen=True)
class Series:
    """Patches in the order to apply them. `notes`: what a reader of the result has to know."""

    name: str  # a word for labels: a file's name, a range
    patches: tuple[Patch, ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A hash of all that is applied, 16 hexadecimal digits."""
        total = hashlib.sha256()
        for patch in self.patches:
            total.update(patch.text.encode("utf-8", "surrogateescape") + b"\0")
        return total.hexdigest()[:16]

    @property
    def changes(self) -> list[FileChange]:
        """All changes of all patches."""
        return [change for patch in self.patches for change in patch.changes]

    @property
    def ignored(self) -> dict[str, str]:
        """The files that no x86 kernel is built from: their names, and what they are."""
        return {c.path: not_built(c.path) for c in self.changes if not_built(c.path)}

    def first(self, number: int) -> Series:
        """Return the series of the first `number` patches."""
        return Series(f"{self.name}@{number}", self.patches[:number], self.notes)

    def refusal(self) -> str:
        """Say in a line why it can't be tested by KVM's modules alone; empty if it can."""
        outside = dict.fromkeys(c.path for c in self.changes if c.outside)
        odd = {c.path: c.odd for c in self.changes if c.odd and not not_built(c.path)}
        if outside:
            return (
                f"{', '.join(outside)}: not in virt/kvm, arch/x86/kvm or their headers, so built "
                "into the kernel's image or into other modules; build a tree with the series and "
                "give its path (--kernel ~/linux)"
            )
        if odd:
            return "; ".join(f"{path} is {what}" for path, what in odd.items())
        if not any(patch.text for patch in self.patches):
            files = ", ".join(self.ignored) or "nothing"
            return f"it changes nothing that KVM is built from ({files})"
        return ""


@dataclass(frozen=True)
class _Mail:
    """A message with a diff: its patch, and what the subject's bracket says of it."""

    patch: Patch
    number: int  # 0: none is said
    total: int
    version: int


def read(sources: Sequence[str]) -> Series:
    """Return the series that all `sources` together are.

    UsageError for what can't be read or is incomplete, MissingCapability where git or b4 is
    missing.
    """
    mails: list[_Mail] = []
    notes: list[str] = []
    for source in sources:
        found = _mails(_contents(source), source)
        if not found:
            raise UsageError(f"{source}: there is no patch in it")
        if len(found) > 1:
            found = _complete(found, source, notes)
        mails += found
    if len(sources) > 1:
        mails = _sorted(mails)
    _say_missing(mails, notes)
    names = [_name(source) for source in sources]
    name = names[0] + (f"-{len(names) - 1}-more" if len(names) > 1 else "")
    return Series(name, tuple(mail.patch for mail in mails), tuple(notes))


def of_message(text: bytes) -> Series:
    """Return the series that one message is: a patch, or none for a cover letter or a reply."""
    mails = _mails([("the message", text)], "the message")
    notes: list[str] = []
    _say_missing(mails, notes)
    return Series("message", tuple(mail.patch for mail in mails), tuple(notes))


def number_of(text: bytes) -> int:
    """Return the number that a message's subject says its patch has; 0 for none, or a cover's."""
    headers = email.message_from_bytes(text, policy=email.policy.default)
    return _subject(" ".join(str(headers["subject"] or "").split()))[1]


def _name(source: str) -> str:
    path = Path(source).expanduser()
    name = path.resolve().name if path.exists() else source.rpartition("/")[2].strip("<>")
    return re.sub(r"[\s:+]", "-", name.rpartition("@")[2] if ".." in name else name)


# ------------------------------------------------------------------ where they are


def _contents(source: str) -> list[tuple[str, bytes]]:
    """Return what there is to read: a name for messages, and the bytes."""
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.suffix in (".patch", ".diff", ".mbox"))
            if not files:
                raise UsageError(
                    f"{source}: no .patch, .diff or .mbox file is in it (commits of a git tree "
                    "are given as TREE@BASE..TOPIC)"
                )
            return [(str(file), decompress(file.read_bytes())) for file in files]
        if path.exists():
            return [(source, decompress(path.read_bytes()))]
    except OSError as error:
        raise UsageError(f"can't read {source}: {error.strerror}") from None
    tree, at, commits = source.rpartition("@")
    if at and ".." in commits and Path(tree).expanduser().is_dir():
        return [(source, _from_git(Path(tree).expanduser(), commits, source))]
    if _MESSAGE_ID.fullmatch(source):
        return [(source, _from_list(source))]
    raise UsageError(
        f"{source}: no such file; a series is an mbox, .patch files, a directory of them, "
        "TREE@BASE..TOPIC or a message id"
    )


def _from_git(tree: Path, commits: str, source: str) -> bytes:
    if shutil.which("git") is None:
        raise MissingCapability(source, "git is not installed")
    if commits.startswith("-"):
        raise UsageError(f"{source}: {commits} is no range of commits")
    argv = ["git", "-C", str(tree), "-c", "format.attach=", "format-patch", "--stdout"]
    done = _run([*argv, "--no-cover-letter", commits, "--"], _GIT_DEADLINE, source)
    if not done:
        raise UsageError(f"{source}: no commit is in that range")
    return done


def _from_list(source: str) -> bytes:
    if shutil.which("b4") is None:
        raise MissingCapability(
            source, "a message id takes b4 (pip install b4), or an mbox saved from the archive"
        )
    with progress.step(f"fetching {source} with b4"):
        return _run(["b4", "--quiet", "am", "-o", "-", source], _B4_DEADLINE, source)


def _run(argv: list[str], deadline: float, source: str) -> bytes:
    """Return what a program prints; UsageError with its last line where it fails."""
    try:
        done = process.run(argv, timeout=deadline, errors="surrogateescape", encoding="utf-8")
    except subprocess.TimeoutExpired:
        raise MissingCapability(source, f"{argv[0]} did not end in {deadline:.0f} s") from None
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise UsageError(f"{source}: {argv[0]}: {said[-1]}")
    return done.stdout.encode("utf-8", "surrogateescape")


# ------------------------------------------------------------------ what is in them


def _mails(contents: Iterable[tuple[str, bytes]], source: str) -> list[_Mail]:
    mails: list[_Mail] = []
    for name, data in contents:
        begins = [match.end() for match in _SEPARATOR.finditer(data)]
        if begins:
            ends = [*[match.start() for match in _SEPARATOR.finditer(data)][1:], len(data)]
            for begin, end in zip(begins, ends, strict=True):
                mails += _mail(data[begin:end], name)
        elif _HEADER.match(data):
            mails += _mail(data, name)
        else:
            patch = parse(Path(name).name, data.decode("utf-8", "surrogateescape"), name)
            mails += [_Mail(patch, 0, 0, 1)] if patch.changes else []
    return mails


def _mail(data: bytes, origin: str) -> list[_Mail]:
    """Return the patch in a message; nothing for a cover letter, a reply or other talk."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    subject = " ".join(str(message["subject"] or "").split())
    if re.match(r"(?i)re:|aw:|fwd?:", subject):
        return []
    title, number, total, version = _subject(subject)
    text = "\n".join(_texts(message))
    patch = parse(title or Path(origin).name, text.replace("\r\n", "\n"), origin)
    if not patch.changes:
        if number:
            raise UsageError(f"{origin}: patch {number}/{total}, {title!r}, has no diff")
        return []
    return [_Mail(patch, number, total, version)]


def _texts(message: EmailMessage | email.message.Message) -> list[str]:
    texts = []
    for part in message.walk():
        if part.get_content_maintype() != "text" or part.get_content_subtype() == "html":
            continue
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            charset = part.get_content_charset("utf-8")
            try:
                texts.append(payload.decode(charset))
            except (LookupError, UnicodeDecodeError):
                texts.append(payload.decode("utf-8", "surrogateescape"))
    return texts


def _subject(subject: str) -> tuple[str, int, int, int]:
    """Return title, number, total and version of ``[PATCH v2 3/7] KVM: title``."""
    number = total = 0
    version = 1
    while match := _TAG.match(subject):
        tag, subject = match.groups()
        if found := re.search(r"\b(\d+)/(\d+)\b", tag):
            number, total = int(found[1]), int(found[2])
        if found := re.search(r"(?i)\bv(\d+)\b", tag):
            version = int(found[1])
    return subject, number, total, version


def _complete(mails: list[_Mail], source: str, notes: list[str]) -> list[_Mail]:
    """Return one version of the series, in order; UsageError where a patch is missing or twice."""
    newest = max(mail.version for mail in mails)
    if left_out := sorted({mail.version for mail in mails} - {newest}):
        versions = ", ".join(f"v{version}" for version in left_out)
        notes.append(f"{source} holds {versions} as well: v{newest} is taken")
    mails = _sorted([mail for mail in mails if mail.version == newest])
    numbers = [mail.number for mail in mails if mail.number]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise UsageError(f"{source}: patch {twice[0]} is there twice; give one series")
    missing = sorted(set(range(1, max((m.total for m in mails), default=0) + 1)) - set(numbers))
    if numbers and missing:
        some = ", ".join(map(str, missing))
        raise UsageError(f"{source}: of {mails[0].total} patches, {some} can't be found in it")
    return mails


def _sorted(mails: list[_Mail]) -> list[_Mail]:
    """Sort by number where all have one; else the order in which they came holds."""
    if all(mail.number for mail in mails):
        return sorted(mails, key=lambda mail: mail.number)
    return mails


def _say_missing(mails: list[_Mail], notes: list[str]) -> None:
    total = max((mail.total for mail in mails), default=0)
    missing = sorted(set(range(1, total + 1)) - {mail.number for mail in mails})
    if missing:
        some = ", ".join(map(str, missing))
        notes.append(f"of {total} patches, {some} {'is' if len(missing) == 1 else 'are'} not here")
