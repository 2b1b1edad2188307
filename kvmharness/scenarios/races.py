# SPDX-License-Identifier: MIT
"""What scenarios about races share: something repeated meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
