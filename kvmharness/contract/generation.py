# SPDX-License-Identifier: MIT
"""Generations of kernels: from the release that has a change to the one that has the next.

A change enters mainline in one release and may be in point releases of older series as well, so
that 7.1.4 is newer than 7.1.3 as well as 7.0.9, and no line from old to new divides them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kvmharness.release import Release, names_a_series, parse_release


class BadGeneration(ValueError):
    """Releases that can't be a change's, or a generation without a kernel."""


@dataclass(frozen=True)
class Change:
    """Where a change is: in `mainline` and all that follows, and in series from a `stable` on."""

    mainline: Release
    stable: tuple[Release, ...] = ()

    @classmethod
    def parse(cls, texts: str | Sequence[str]) -> Change:
        """Read ``"7.2"`` or ``["7.2", "7.1.4", "6.12.117"]``: mainline, then point releases.

        A series means it from its first release candidate on; ``7.3-rc5`` is that candidate.
        NotARelease or BadGeneration for what makes no sense.
        """
        first, *others = [texts] if isinstance(texts, str) else texts
        mainline = parse_release(first)
        if mainline.point:
            raise BadGeneration(f"{first} is a point release: begin with the one of mainline")
        if names_a_series(first):
            mainline = Release(*mainline.series, candidate=0)
        stable = tuple(parse_release(text) for text in others)
        for text, release in zip(others, stable, strict=True):
            if not release.point:
                raise BadGeneration(f"{text} is no point release")
            if release >= mainline:
                raise BadGeneration(f"{text} has what {first} has, being newer")
        return cls(mainline, stable)

    def is_in(self, release: Release) -> bool:
        """Whether a kernel has the change."""
        return release >= self.mainline or any(
            release.series == point.series and release >= point for point in self.stable
        )

    def __str__(self) -> str:
        points = f" ({', '.join(map(str, self.stable))})" if self.stable else ""
        return f"{self.mainline}{points}"


@dataclass(frozen=True)
class Generation:
    """The kernels that have the change `first` and not yet the change `end`; None is open."""

    first: Change | None = None
    end: Change | None = None

    def __post_init__(self) -> None:
        if not any(self.holds(release) for release in _starts([self])):
            raise BadGeneration("no kernel is of this generation")

    def holds(self, release: Release) -> bool:
        """Whether a kernel is of this generation."""
        return (self.first is None or self.first.is_in(release)) and not (
            self.end is not None and self.end.is_in(release)
        )

    def holds_some_of(self, text: str) -> bool:
        """Whether it holds the release that `text` names, or some release of the series."""
        return any(self.holds(release) for release in meant([self], text))

    def precedes(self, release: Release) -> bool:
        """Whether the kernel is beyond this generation's end."""
        return self.end is not None and self.end.is_in(release)

    def follows(self, release: Release) -> bool:
        """Whether the kernel is from before this generation."""
        return self.first is not None and not self.first.is_in(release)

    def overlaps(self, other: Generation) -> bool:
        """Whether a kernel is of both."""
        return any(
            self.holds(release) and other.holds(release) for release in _starts([self, other])
        )

    @property
    def order(self) -> Release:
        """What generations are sorted by, the oldest first."""
        return self.first.mainline if self.first else Release(0, 0)

    def __str__(self) -> str:
        parts = []
        if self.first:
            parts.append(f"from {self.first}")
        if self.end:
            parts.append(f"before {self.end}")
        return ", ".join(parts) or "every kernel"


def meant(generations: Iterable[Generation], text: str) -> list[Release]:
    """Return the release that `text` names, or for a series each at which a generation begins.

    A series' releases may be of several generations: what holds for one of these holds for those
    that follow it, up to the next.
    """
    release = parse_release(text)
    if not names_a_series(text):
        return [release]
    points = (
        point
        for generation in generations
        for change in (generation.first, generation.end)
        if change is not None
        for point in change.stable
        if point.series == release.series
    )
    return sorted({release, *points})


def _starts(generations: Sequence[Generation]) -> list[Release]:
    """Return a release of each stretch of kernels that the generations don't divide further."""
    starts = {Release(0, 0)}
    for generation in generations:
        for change in (generation.first, generation.end):
            if change is not None:
                starts.add(change.mainline)
                for point in change.stable:
                    starts |= {Release(*point.series, candidate=0), point}
                    starts.add(Release(point.major, point.minor + 1, candidate=0))
    return sorted(starts)
