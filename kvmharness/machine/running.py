# SPDX-License-Identifier: MIT
"""Running a vCPU's payload: on this thread or on one of its own, to its end or its deadline."""

from __future__ import annotations

import threading
import time

from kvmharness.errors import RunTimeout
from kvmharness.kvm.exits import Exit, IoExit
from kvmharness.kvm.vcpu import Vcpu
from kvmharness.machine.payload import ReportReader
from kvmharness.record import Record


class PayloadRun(Record):
    """What a payload did: its console text, the words it reported, how it ended.

    `status` is what it finished with, None when another exit ended the run; `exit` is the last
    exit; `exits` counts all.
    """

    reader: ReportReader
    exit: Exit | None = None
    exits: int = 0
    seconds: float = 0.0

    @property
    def status(self) -> int | None:
        """The payload's own status, 0 for success."""
        return self.reader.status

    @property
    def console(self) -> str:
        """What it wrote to the console port."""
        return self.reader.text

    @property
    def words(self) -> list[int]:
        """The 64-bit words it reported, in order."""
        return self.reader.words


class VcpuThread:
    """A vCPU running its payload on a thread of its own; join() gives the PayloadRun."""

    def __init__(self, vcpu: Vcpu, timeout: float | None) -> None:
        self.vcpu = vcpu
        self.run = PayloadRun(ReportReader())
        self._timeout = timeout
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._body, name=f"vcpu-{vcpu.id}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def join(self) -> PayloadRun:
        """Wait for the end; raises what the thread raised, RunTimeout among it."""
        # KVM_RUN has the deadline; the margin is for a machine that is busy with other things.
        self._thread.join(None if self._timeout is None else self._timeout + 10)
        if self._thread.is_alive():
            raise RunTimeout(
                f"the thread of vCPU {self.vcpu.id} is still inside KVM_RUN 10 s past its deadline"
            )
        if self._error is not None:
            raise self._error
        return self.run

    def stop(self) -> PayloadRun:
        """Kick the vCPU out of the guest and wait; a payload that never ends is ended so."""
        self.vcpu.kick()
        return self.join()

    def leave(self, deadline: float) -> bool:
        """Kick the vCPU out of KVM_RUN until its thread has ended; False at `deadline`.

        `deadline` is a time of ``time.monotonic()``, in seconds.
        """
        while self.running:
            self.vcpu.kick()
            self._thread.join(0.05)
            if time.monotonic() > deadline:
                return not self.running
        return True

    def _body(self) -> None:
        try:
            run_payload(self.vcpu, self._timeout, self.run)
        except BaseException as error:  # noqa: BLE001 (handed to join)
            self._error = error


def run_payload(vcpu: Vcpu, timeout: float | None, run: PayloadRun | None = None) -> PayloadRun:
    """Run `vcpu` until its payload finishes or something other than the protocol's ports exits.

    Raises RunTimeout after `timeout` seconds in all, however many exits it takes; None is no
    deadline.
    """
    run = PayloadRun(ReportReader()) if run is None else run
    start = time.monotonic()
    while True:
        left = None if timeout is None else timeout - (time.monotonic() - start)
        try:
            run.exit = vcpu.run(left)
        except RunTimeout as error:
            if run.exit is None:
                raise
            raise RunTimeout(
                f"vCPU {vcpu.id} made {run.exits} exits in {timeout:g} s and did not finish; "
                f"after the last ({run.exit.name}): {error}"
            ) from None
        run.exits += 1
        run.seconds = time.monotonic() - start
        if (
            not isinstance(run.exit, IoExit)
            or not run.exit.is_out
            or not run.reader.feed(run.exit.port, run.exit.size, run.exit.data)
            or run.reader.finished
        ):
            return run
