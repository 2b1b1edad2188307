# SPDX-License-Identifier: MIT
"""Guest payloads: loading them, and the host's half of the protocol they speak.

The guest's half is vm_images/x86_64/protocol.inc, and README.md beside it describes both. Nothing
here opens /dev/kvm: a payload is bytes, a place to load them, and the names of its registers.

A VM may have no payload at all: what only reading one takes is imported for the first.
"""

from __future__ import annotations

import enum
import functools
import itertools
from typing import TYPE_CHECKING, Any

from kvmharness.errors import HarnessError, KernelFault
from kvmharness.record import Record

if TYPE_CHECKING:
    from pathlib import Path

#: Byte out: one console character (also the bytes of a REP OUTSB).
PORT_CONSOLE = 0x3F8
#: 32-bit out: half a report word, the low half first.
PORT_REPORT = 0x510
#: Byte out: the payload has finished; the value is its status.
PORT_DONE = 0x511

STATUS_OK = 0
STATUS_BAD_ARGUMENT = 1

PAGE_SIZE = 4096

_U64 = (1 << 64) - 1
_CHECKSUM_SEED = 0xCBF29CE484222325
_PATTERN_STEP = 0x9E3779B97F4A7C15
_WORDS_PER_PAGE = PAGE_SIZE // 8

#: In an entry of the touch payload's table: write touch_mark(gpa) after reading.
TOUCH_WRITE = 1


class PayloadError(HarnessError):
    """A payload is unknown, damaged, or was given arguments it does not take."""


class ProtocolError(KernelFault):
    """A guest wrote to the protocol's ports in a way no payload does."""


class Mode(enum.StrEnum):
    """A CPU mode that code can be entered in; ``Mode("long")`` is long mode at CPL0.

    Protected mode is 32-bit, at CPL0, with flat segments and without paging.
    """

    REAL = "real"
    PROTECTED = "protected"
    LONG_CPL0 = "long-cpl0"
    LONG_CPL3 = "long-cpl3"

    @classmethod
    def _missing_(cls, value: object) -> Mode | None:
        return cls.LONG_CPL0 if value == "long" else None


class ExitCase(enum.IntEnum):
    """What the `exits` payload can cause: its first argument. exits.S lists the others."""

    HLT = 0
    MMIO_READ = 1
    MMIO_WRITE = 2
    PIO_IN = 3
    SHUTDOWN = 4
    RDMSR = 5
    WRMSR = 6
    VMCALL = 7
    VMMCALL = 8
    CPUID = 9
    PIO_STRING = 10
    INT3 = 11


class Argument(Record, frozen=True):
    """One argument of a payload: the register that holds it, its name and its unit."""

    register: str
    name: str
    unit: str
    optional: bool = False


class Payload(Record, frozen=True):
    """One payload, verified: its image, where it goes, and what it does.

    `load_gpa` and `entry` are guest physical addresses in bytes; `expected_exits` are KVM_EXIT_
    names without that prefix; `reports` describes the report words in their order.
    """

    name: str
    description: str
    path: Path
    image: bytes
    sha256: str
    load_gpa: int
    entry: int
    modes: tuple[Mode, ...]
    arguments: tuple[Argument, ...]
    expected_exits: tuple[str, ...]
    reports: tuple[str, ...]
    #: What it writes to the console, None where that depends on the arguments.
    console: str | None

    @property
    def size(self) -> int:
        """Return the size of the image in bytes."""
        return len(self.image)

    def registers(self, **values: int) -> dict[str, int]:
        """Return the registers that pass `values`, given by argument name; optional ones are 0.

        PayloadError when an argument is missing, unknown, or not an unsigned 64-bit number.
        """
        known = {argument.name: argument for argument in self.arguments}
        if unknown := sorted(values.keys() - known.keys()):
            takes = ", ".join(known) or "no arguments"
            raise PayloadError(
                f"payload {self.name} has no argument {unknown[0]!r}; it takes {takes}"
            )
        registers = {}
        for argument in self.arguments:
            if argument.name not in values and not argument.optional:
                raise PayloadError(
                    f"payload {self.name} needs {argument.name} ({argument.unit}) "
                    f"in {argument.register}"
                )
            value = values.get(argument.name, 0)
            if not 0 <= value <= _U64:
                raise PayloadError(
                    f"payload {self.name}: {argument.name} = {value:#x} is not an unsigned "
                    "64-bit number"
                )
            registers[argument.register] = value
        return registers


def _directory() -> Path:
    from kvmharness import resources

    return resources.images_dir() / "x86_64"


@functools.lru_cache(maxsize=4)
def _manifest(directory: Path) -> dict[str, dict[str, Any]]:
    import tomllib

    path = directory / "manifest.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise PayloadError(
            f"{path} can't be read ({error}); the installation is damaged"
        ) from error


def names() -> tuple[str, ...]:
    """Return the names of all payloads, in the manifest's order."""
    return tuple(_manifest(_directory()))


def load(name: str) -> Payload:
    """Read one payload and verify its image against the manifest.

    PayloadError when there is no such payload, or its image is missing or differs.
    """
    import hashlib

    directory = _directory()
    manifest = _manifest(directory)
    if name not in manifest:
        raise PayloadError(f"no payload named {name!r}; there are: {', '.join(manifest)}")
    table = manifest[name]
    path = directory / table["file"]
    try:
        image = path.read_bytes()
    except OSError as error:
        raise PayloadError(
            f"{path} can't be read ({error.strerror}); in a checkout, ci/rebuild_images --update "
            "makes it from its source"
        ) from error
    digest = hashlib.sha256(image).hexdigest()
    if digest != table["sha256"] or len(image) != table["size"]:
        raise PayloadError(
            f"{path} is not the image of manifest.toml (sha256 {digest}, {len(image)} bytes; "
            f"expected {table['sha256']}, {table['size']} bytes); restore it, or in a checkout "
            "run ci/rebuild_images --update after changing its source"
        )
    return Payload(
        name=name,
        description=table["description"],
        path=path,
        image=image,
        sha256=digest,
        load_gpa=table["load_gpa"],
        entry=table["entry"],
        modes=tuple(Mode(mode) for mode in table["modes"]),
        arguments=tuple(Argument(**argument) for argument in table["arguments"]),
        expected_exits=tuple(table["expected_exits"]),
        reports=tuple(table["reports"]),
        console=table.get("console"),
    )


def page_checksum(page: bytes | bytearray | memoryview) -> int:
    """Return what the checksum payload reports for a page with these contents (4096 bytes).

    sum += word and running += sum over the little-endian 64-bit words, from sum = a seed;
    then sum ^ rotl(running, 1), all modulo 2**64.
    """
    view = memoryview(page)
    if view.nbytes != PAGE_SIZE:
        raise ValueError(f"a page has {PAGE_SIZE} bytes, not {view.nbytes}")
    # x86-64 is little-endian, so the native words are the guest's. Reduced only at the end:
    # Python's sum() and accumulate() are much faster than a masked loop.
    sums = list(itertools.accumulate(view.cast("B").cast("Q"), initial=_CHECKSUM_SEED))
    last = sums[-1] & _U64
    running = (sum(sums) - _CHECKSUM_SEED) & _U64
    return last ^ ((running << 1 | running >> 63) & _U64)


def pattern_page(seed: int, gpa: int) -> bytes:
    """Return the page that the pattern payload writes at `gpa` (bytes) for `seed` (64 bits).

    The word at an address is seed + address * an odd constant, modulo 2**64.
    """
    first = (seed + gpa * _PATTERN_STEP) & _U64
    step = (_PATTERN_STEP * 8) & _U64
    words = range(first, first + step * _WORDS_PER_PAGE, step)
    return b"".join([(word & _U64).to_bytes(8, "little") for word in words])


def touch_table(entries: list[tuple[int, int]]) -> bytes:
    """Return the touch payload's table for `entries` of (gpa in bytes, flags: 0 or TOUCH_WRITE)."""
    return b"".join(
        gpa.to_bytes(8, "little") + flags.to_bytes(8, "little") for gpa, flags in entries
    )


def touch_mark(gpa: int) -> int:
    """Return the word that the touch payload writes at `gpa` (bytes) when asked to write."""
    return ~gpa & _U64


class ReportReader:
    """Assembles a vCPU's port writes into console text, report words and the final status.

    Each vCPU needs its own: a word arrives in two halves, and vCPUs interleave.
    """

    def __init__(self) -> None:
        self.console = bytearray()
        self.words: list[int] = []
        #: The payload's status, None while it has not finished.
        self.status: int | None = None
        self._low: int | None = None

    def __repr__(self) -> str:
        words = ", ".join(map(hex, self.words))
        return f"<ReportReader console={self.text!r} words=[{words}] status={self.status}>"

    @property
    def finished(self) -> bool:
        """Return whether the payload has said that it is done."""
        return self.status is not None

    @property
    def text(self) -> str:
        """Return the console as text; bytes that are not ASCII are shown escaped."""
        return self.console.decode("ascii", "backslashreplace")

    def feed(self, port: int, size: int, data: bytes) -> bool:
        """Take one PIO write: `size` bytes an element, `data` all elements of the exit.

        Return False, and change nothing, when the port is not one of the protocol's.
        ProtocolError when the write is not one that a payload makes.
        """
        if port not in (PORT_CONSOLE, PORT_REPORT, PORT_DONE):
            return False
        wanted = 4 if port == PORT_REPORT else 1
        if size != wanted or not data or len(data) % size:
            raise ProtocolError(
                f"port {port:#x} takes writes of {wanted} bytes, the guest made one of {size} "
                f"({len(data)} bytes in all)"
            )
        if port == PORT_DONE:
            self._finish(data[-1])
        elif self.finished:
            raise ProtocolError(f"the guest wrote to port {port:#x} after it had finished")
        elif port == PORT_CONSOLE:
            self.console += data
        else:
            for at in range(0, len(data), size):
                self._half(int.from_bytes(data[at : at + size], "little"))
        return True

    def _half(self, value: int) -> None:
        if self._low is None:
            self._low = value
        else:
            self.words.append(self._low | value << 32)
            self._low = None

    def _finish(self, status: int) -> None:
        # At CPL3 a payload can't halt and repeats its last write, so a repetition is not an error.
        if self.status not in (None, status):
            raise ProtocolError(f"the guest finished with status {self.status}, then {status}")
        if self._low is not None:
            raise ProtocolError("the guest finished with half a report word outstanding")
        self.status = status
