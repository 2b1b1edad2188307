# SPDX-License-Identifier: MIT
"""Report files: known to be writable before a long run, replaced in one step after it.

Until then what the file held stays; a run that is killed leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kvmharness.closing import Closing
from kvmharness.errors import UsageError

STDOUT = "-"


class ReportFile(Closing):
    """One file to come. `path` ``-`` is standard output; UsageError if it can't be written."""

    def __init__(self, path: str) -> None:
        self.name = path
        self._staged: int | None = None
        self._staged_name: Path | None = None
        self._target = Path(os.path.realpath(path))
        if path == STDOUT:
            return
        try:
            self._reserve()
        except OSError as error:
            raise UsageError(f"can't write {path}: {error.strerror}") from None

    @property
    def is_stdout(self) -> bool:
        """Whether it goes to standard output."""
        return self.name == STDOUT

    def _reserve(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            mode = self._target.stat().st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(0, "it is a directory")
            if not os.access(self._target, os.W_OK):
                raise PermissionError(0, "permission denied")
            if not stat.S_ISREG(mode):
                return  # a device or pipe: nothing to keep, nothing to replace
        directory = self._target.parent
        try:
            # A file without a name goes with this process, however that ends.
            self._staged = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            raise
        except OSError:
            # Not every file system has O_TMPFILE.
            prefix = f".{self._target.name}."
            self._staged, name = tempfile.mkstemp(prefix=prefix, dir=directory)
            self._staged_name = Path(name)

    def write(self, text: str) -> None:
        """Write the report; the file then holds all of it."""
        if self.is_stdout:
            sys.stdout.write(text)
            sys.stdout.flush()
        elif self._staged is None:
            self._target.write_text(text, encoding="utf-8")
        else:
            with open(self._staged, "w", encoding="utf-8", closefd=False) as file:
                file.write(text)
            self._publish()

    def _publish(self) -> None:
        assert self._staged is not None
        if self._staged_name is None:
            # linkat() does not replace; a name beside it does, by rename.
            with _free_name(self._target) as name:
                # Python follows the link to the file only when a directory's fd is given, which an
                # absolute path makes no use of.
                source = f"/proc/self/fd/{self._staged}"
                os.link(source, name, src_dir_fd=self._staged, follow_symlinks=True)
                os.rename(name, self._target)
            return
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(self._staged, 0o666 & ~umask)
        os.rename(self._staged_name, self._target)
        self._staged_name = None

    def close(self) -> None:
        """Give up what was reserved and not written."""
        if self._staged is not None:
            os.close(self._staged)
            self._staged = None
        if self._staged_name is not None:
            self._staged_name.unlink(missing_ok=True)
            self._staged_name = None


@contextlib.contextmanager
def _free_name(target: Path) -> Iterator[Path]:
    name = target.parent / f".{target.name}.{os.getpid()}"
    name.unlink(missing_ok=True)
    try:
        yield name
    finally:
        name.unlink(missing_ok=True)
