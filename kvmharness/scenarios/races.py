# SPDX-License-Identifier: MIT
"""What scenarios about races share: something repeated meanwhile, and a verdict on many results."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kvmharness.kvm.result import Result


@contextmanager
def meanwhile(action: Callable[[], object]) -> Iterator[None]:
    """Repeat `action` on another thread as long as the block lasts."""
    stop = threading.Event()

    def body() -> None:
        while not stop.is_set():
            action()

    worker = threading.Thread(target=body)
    worker.start()
    try:
        yield
    finally:
        stop.set()
        worker.join(30)


def only(results: list[Result[Any]], allowed: set[str]) -> str:
    """Say that all `results` are among the `allowed` errnos' names, or which others there are."""
    if not results:
        return "none was made"
    if others := sorted({result.errno_name for result in results} - allowed):
        return f"also {others}"
    return " or ".join(sorted(allowed, key=lambda name: (name.isupper(), name)))
