# SPDX-License-Identifier: MIT
"""Headless Chromium, driven through its debugging pipe: pages from files, clicks, screenshots.

No package is needed for it: messages are JSON ended by a zero byte, commands on the browser's fd 3,
answers on its fd 4 (--remote-debugging-pipe). Protocol: chromedevtools.github.io/devtools-protocol.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_FLAGS = (
    *("--headless=new", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    "--disable-lcd-text",
    # Nothing is fetched: these keep the browser from trying.
    *("--disable-quic", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-extensions", "--disable-default-apps", "--no-proxy-server"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
#: Seconds for one command.
_DEADLINE = 60.0


def find() -> str | None:
    """Return Chromium's path, None where there is none."""
    return next((p for n in ("chromium", "chromium-browser") if (p := shutil.which(n))), None)


def _pipe() -> tuple[int, int]:
    """Make a pipe whose ends are neither fd 3 nor 4: those are the browser's own."""
    ends = os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return read, write


class Browser:
    """A browser with one page, `width` by `height` CSS pixels; a context manager."""

    def __init__(self, width: int, height: int, *, dark: bool = False, scale: float = 1.0) -> None:
        program = find()
        if program is None:
            raise RuntimeError("chromium is not installed (Debian: apt-get install chromium)")
        self._directory = tempfile.TemporaryDirectory(prefix="kvmharness-chromium-")
        commands, self._commands = _pipe()
        self._answers, answers = _pipe()
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        # The shell puts the pipes where the browser looks for them.
        self._process = subprocess.Popen(
            [
                *("bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", program),
                *(*_FLAGS, *sandbox, "--remote-debugging-pipe"),
                f"--user-data-dir={self._directory.name}",
            ],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        self._number = 0
        self._pending = b""
        self._session: str | None = None
        self.requests: list[str] = []
        try:
            self._open(width, height, dark, scale)
        except BaseException:
            self.close()
            raise

    def _open(self, width: int, height: int, dark: bool, scale: float) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.call("Page.enable")
        self.call("Network.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 700,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file and wait until it is loaded."""
        url = path.resolve().as_uri() + (f"#{fragment}" if fragment else "")
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def evaluate(self, script: str) -> Any:
        """Return the value of a JavaScript expression; RuntimeError if it throws."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"].get("exception", {}).get("description"))
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 20.0) -> None:
        """Wait until an expression is true."""
        give_up = time.monotonic() + seconds
        while not self.evaluate(script):
            if time.monotonic() > give_up:
                raise TimeoutError(f"{script} was not true within {seconds:g} s")
            time.sleep(0.05)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Save what is seen as PNG, or the whole page with all that is below."""
        options: dict[str, Any] = {"format": "png"}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["captureBeyondViewport"] = True
            options["clip"] = {**size, "x": 0, "y": 0, "scale": 1}
        data = self.call("Page.captureScreenshot", **options)["data"]
        path.write_bytes(base64.b64decode(data))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Make one call of the protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        give_up = time.monotonic() + _DEADLINE
        while True:
            answer = self._receive(give_up, method)
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _receive(self, give_up: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._pending:
            left = give_up - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                raise TimeoutError(f"chromium did not answer {method} within {_DEADLINE:g} s")
            data = os.read(self._answers, 1 << 16)
            if not data:
                raise RuntimeError(f"chromium ended with status {self._process.wait(10)}")
            self._pending += data
        message, _, self._pending = self._pending.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def close(self) -> None:
        """End the browser and remove its directory."""
        # A browser whose pipe is closed ends by itself.
        os.close(self._commands)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)
        self._directory.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
