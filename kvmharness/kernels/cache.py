# SPDX-License-Identifier: MIT
"""The cache directory: what was fetched or built once, published whole or not at all.

It is ``$KVMHARNESS_CACHE``, or ``kvmharness`` in the user's XDG cache directory. Several processes
may use it at once: whoever makes something holds its lock, and a half-made thing lives in
``staging/``, which the next user sweeps if its maker was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kvmharness.errors import HarnessError

#: How long to wait for another process that fetches or builds the same thing, in seconds.
LOCK_DEADLINE = 1800.0


class CacheBusy(HarnessError):
    """Another process held a cache entry for longer than the deadline."""


def cache_dir() -> Path:
    """Return the cache directory, made if missing."""
    chosen = os.environ.get("KVMHARNESS_CACHE")
    if chosen:
        path = Path(chosen)
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        path = Path(base) / "kvmharness"
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(
            f"the cache directory {path} can't be made ({error.strerror}); "
            "set KVMHARNESS_CACHE to a directory that can be written"
        ) from error
    return path


def entry_name(text: str) -> str:
    """Return `text` as a file name: everything but letters, digits and ``.+_~-`` becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9.+_~-]", "_", text)


@contextlib.contextmanager
def locked(name: str, deadline: float = LOCK_DEADLINE) -> Iterator[None]:
    """Hold the cache's lock called `name`; wait at most `deadline` seconds for its holder.

    The lock is the kernel's (flock): it goes with the process that holds it, even on kill -9.
    """
    directory = cache_dir() / "locks"
    directory.mkdir(exist_ok=True)
    with open(directory / entry_name(name), "w") as file:
        give_up = time.monotonic() + deadline
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise CacheBusy(
                        f"another process has been working on {name} in {cache_dir()} for "
                        f"{deadline:.0f} s; wait for it or end it"
                    ) from None
                time.sleep(0.1)
        yield


@contextlib.contextmanager
def staging(label: str) -> Iterator[Path]:
    """Give an empty directory on the cache's file system, removed on leaving the block.

    Directories of makers that were killed are removed here too: their lock is free.
    """
    root = cache_dir() / "staging"
    root.mkdir(exist_ok=True)
    sweep(root)
    directory = Path(tempfile.mkdtemp(prefix=entry_name(label) + ".", dir=root))
    with open(root / f"{directory.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            Path(lock.name).unlink(missing_ok=True)


def sweep(root: Path) -> None:
    """Remove the staging directories below `root` whose maker no longer runs."""
    for lock_file in root.glob("*.lock"):
        try:
            with open(lock_file) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
                lock_file.unlink(missing_ok=True)
        except (BlockingIOError, FileNotFoundError):
            continue


def publish(made: Path, final: Path) -> None:
    """Move `made` (staged, a file or directory) to `final` in one step, whatever was there."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.is_dir():
        stale = Path(tempfile.mkdtemp(dir=made.parent, prefix="stale."))
        os.rename(final, stale / "x")
    os.rename(made, final)


def size_of(path: Path) -> int:
    """Return the bytes that a file, or all files below a directory, take."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if not p.is_dir())
