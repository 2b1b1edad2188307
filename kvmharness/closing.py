# SPDX-License-Identifier: MIT
"""What has a close(): usable in a with block, closed at its end however it is left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """Base of what the process owns and gives back by close()."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is owned; a second time does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
