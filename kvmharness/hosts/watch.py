# SPDX-License-Identifier: MIT
"""Follows an emulated host from its start to its end, and says what the run came to."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from kvmharness.hosts import after as after_
from kvmharness.hosts import host
from kvmharness.hosts.guest_clock import GuestClock
from kvmharness.hosts.host import HostRun, OnOutput, Silence, Verdict, never
from kvmharness.hosts.limits import Limits
from kvmharness.hosts.orders import GO
from kvmharness.hosts.virtual_machine import CHANNELS
from kvmharness.kernel_log.log import parse_console

#: After a panic was seen, or the command's end, the seconds the guest gets to end itself.
_LAST_WORDS = 5.0
#: Of what each stream said, the bytes that are kept; a command's output is kept whole.
_KEPT = 256 * 1024


class Watch:
    """Reads what a guest and its QEMU say, lets the command begin, keeps the deadlines, and judges.

    `began`: when QEMU was started, as time.monotonic() has it. `boot_timeout`: seconds from then to
    the command's start; `timeout`: seconds for the command, from its start; `silence` and
    `after`: see Host.run().
    """

    def __init__(
        self,
        on_output: OnOutput | None,
        began: float,
        boot_timeout: float,
        timeout: float,
        silence: Silence = never,
        after: Sequence[str] = (),
    ) -> None:
        self._on_output = on_output
        self._began = began
        self._boot_timeout = boot_timeout
        self._limits = Limits(timeout, silence)
        self._give_up = began + boot_timeout
        self._clock = GuestClock()
        self._after = after
        #: Where the guest's kernel keeps what it tells debuggers: physical address and bytes.
        self.vmcoreinfo: tuple[int, int] | None = None
        self._text = {name: bytearray() for name in CHANNELS}
        self._qemu = bytearray()
        self._milestones: dict[str, float] = {}
        self._status: int | None = None
        self._failed: str | None = None
        self._panicked = False
        #: Whether init was told to start the command.
        self.let_go = False
        self._timed_out = False
        self._qemu_status: int | None = None

    def follow(
        self,
        machine: subprocess.Popen[bytes],
        sources: Mapping[str, int],
        orders: int,
        told: bytes = b"",
        loaded: Callable[[], None] | None = None,
    ) -> None:
        """Read until QEMU has ended and all is read, or a deadline has come.

        `sources`: what to read from, by name: ``qemu`` (its stderr) and the guest's channels,
        ``console``, ``control`` (what init tells), ``stdout``, ``stderr`` (the command's).
        `orders`: the fd to write to what init waits for, first of all `told`, when the modules are
        loaded; `loaded` is called before. Without that the guest has loaded them already.
        """
        self._orders, self._told, self._loaded = orders, told, loaded
        if loaded is None:
            self._tell(told)
        with selectors.DefaultSelector() as waiting:
            for name, fd in sources.items():
                os.set_blocking(fd, False)
                waiting.register(fd, selectors.EVENT_READ, name)
            while waiting.get_map():
                left = self._left()
                for key, _ in waiting.select(None if left == float("inf") else max(left, 0)):
                    try:
                        data = os.read(key.fd, 1 << 16)
                    except BlockingIOError:
                        continue
                    if data:
                        self._take(key.data, data)
                    else:
                        waiting.unregister(key.fd)
                if self.refused:
                    return
                # What was there to read by the deadline may have moved it: where we ran late, the
                # guest did not.
                if left <= 0 and self._left() <= 0:
                    self._timed_out = not self._panicked and self._status is None
                    break
        if not self._timed_out:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._qemu_status = machine.wait(_LAST_WORDS)

    def _left(self) -> float:
        """Return the seconds until a deadline."""
        left = self._give_up - time.monotonic()
        return min(left, self._limits.left()) if self.let_go and self._status is None else left

    @property
    def lost(self) -> bool:
        """Whether the guest panicked or hangs: nothing more will come of it by itself."""
        return self._status is None and (self._panicked or (self._timed_out and self.let_go))

    @property
    def refused(self) -> str:
        """Why the command was not let begin on this host; empty if it was, or may yet be."""
        return "" if self.let_go else self._clock.wrong

    # -------------------------------------------------------------- what is said

    def _take(self, name: str, data: bytes) -> None:
        if name in ("stdout", "stderr", "after"):
            self._limits.heard()
            if self._on_output is not None and name != "after":
                self._on_output(name, data)
            else:
                self._text[name] += data
        elif name == "control":
            self._text[name] += data
            self._read_control(self._text[name])
        elif name == "console":
            self._read_console(data)
        else:
            self._qemu += data
            del self._qemu[:-_KEPT]

    def _read_console(self, data: bytes) -> None:
        text = self._text["console"]
        text += data
        if not self._panicked and b"Kernel panic - not syncing" in text:
            self._panicked = True
            self._give_up = min(self._give_up, time.monotonic() + _LAST_WORDS)
        del text[:-_KEPT]

    def _read_control(self, text: bytearray) -> None:
        while b"\n" in text:
            line, _, rest = bytes(text).partition(b"\n")
            text[:] = rest
            seconds, _, told = line.decode("utf-8", "replace").partition(" ")
            word, _, more = told.partition(" ")
            if word == "vmcoreinfo":
                address, size = (int(number, 16) for number in more.split())
                self.vmcoreinfo = address, size
                continue
            with contextlib.suppress(ValueError):
                self._milestones[word] = float(seconds)
                self._clock.reading(float(seconds), time.monotonic())
            if word == "modules" and self._loaded is not None and not self.refused:
                self._loaded()
                self._clock.restart()  # a guest that is stopped lives no longer
                self._tell(self._told)
            elif word == "ready" and not self.refused:
                self._begin()
            elif word == "failed":
                self._failed = more
            elif word == "exit" and more.isdigit():
                self._status = int(more)
                self._give_up = time.monotonic() + _LAST_WORDS

    def _begin(self) -> None:
        """Have init start the command."""
        self.let_go = True
        self._give_up = float("inf")
        self._limits.begin()
        self._tell(GO)

    def _tell(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError):  # QEMU has ended: that will be seen
            os.write(self._orders, data)

    def hurry(self, seconds: float) -> None:
        """Give up after so many seconds from the start, if the command has not begun by then."""
        self._boot_timeout = min(self._boot_timeout, seconds)
        self._give_up = self._began + self._boot_timeout

    @property
    def came_up(self) -> bool:
        """Whether init told anything at all."""
        return bool(self._milestones) or self._failed is not None

    # -------------------------------------------------------------- what it comes to

    def verdict(self) -> HostRun:
        """Return the outcome."""
        verdict, detail = self._judge()
        finished = verdict is Verdict.FINISHED
        console = host.printable(bytes(self._text["console"]))
        return HostRun(
            verdict=verdict,
            status=self._status if finished else None,
            seconds=time.monotonic() - self._began,
            detail=detail,
            stdout=bytes(self._text["stdout"]),
            stderr=bytes(self._text["stderr"]),
            console=console,
            kernel_log=parse_console(console),
            console_tail="" if finished else self._tail(),
            milestones=self._milestones,
            clock_rate=self._clock.rate,
            after=after_.parse(self._after, bytes(self._text["after"])),
        )

    def _judge(self) -> tuple[Verdict, str]:
        if self.refused:
            return Verdict.BOOT_FAILED, self.refused
        if self._clock.wrong:
            return Verdict.WRONG_TIME, self._clock.wrong
        if self._status is not None:
            return Verdict.FINISHED, ""
        started = self.let_go
        if self._panicked:
            reason = self._panic_reason()
            if not started:
                return Verdict.BOOT_FAILED, f"the guest's kernel panicked while booting: {reason}"
            return Verdict.PANIC, f"the guest's kernel panicked: {reason}"
        if self._failed is not None:
            return Verdict.BOOT_FAILED, self._failed
        if self._timed_out and started:
            return self._limits.passed()
        if self._timed_out:
            where = max(self._milestones, key=lambda m: self._milestones[m], default="nothing")
            return (
                Verdict.BOOT_FAILED,
                f"not booted within {self._boot_timeout:.0f} s; last sign of life: {where}",
            )
        if self._qemu_status is not None and self._qemu_status < 0:
            name = signal.Signals(-self._qemu_status).name
            return Verdict.QEMU_CRASHED, f"QEMU ended by {name}"
        if self._qemu_status not in (None, 0) and not self._milestones:
            return Verdict.QEMU_CRASHED, f"QEMU refused to start: {_last_line(self._qemu)}"
        if not started:
            return Verdict.BOOT_FAILED, "the guest ended while booting"
        return Verdict.GUEST_DIED, "the guest reset or powered off before the command ended"

    def _panic_reason(self) -> str:
        match = re.search(rb"Kernel panic - not syncing: ([^\r\n]*)", self._text["console"])
        return match[1].decode("utf-8", "replace") if match else "no reason given"

    def _tail(self) -> str:
        # QEMU says of each run what of the processor model it can't emulate; that is known.
        said = re.sub(rb".*warning: TCG doesn't support.*\n", b"", bytes(self._qemu))
        parts = (bytes(self._text["console"]), said)
        return "\n".join(text for text in map(host.tail, parts) if text)


def _last_line(text: bytearray) -> str:
    """Return the last line that is not empty, for a message of one line."""
    lines = [line for line in host.printable(bytes(text)).splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
