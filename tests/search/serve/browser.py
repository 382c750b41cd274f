"""Drives Chromium by its DevTools protocol over two pipes, which needs no package."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

_SECONDS = 20.0


class Browser:
    """A headless Chromium with one page.

    Args:
        program: the executable.
        profile: an empty folder.
    """

    def __init__(self, program: str, profile: Path) -> None:
        read_here, write_there = os.pipe()
        read_there, write_here = os.pipe()

        def place() -> None:
            # Chromium reads commands from descriptor 3 and answers on 4; high numbers first, as they may overlap.
            high = [os.dup2(descriptor, 100 + number) for number, descriptor in enumerate((read_there, write_there))]
            for number, descriptor in zip((3, 4), high, strict=True):
                os.dup2(descriptor, number, inheritable=True)

        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--mute-audio"]
        # A microphone that beeps once per second.
        options += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        options += ["--autoplay-policy=no-user-gesture-required", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [program, *options], preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for descriptor in (read_there, write_there):
            os.close(descriptor)
        self._in, self._out = read_here, write_here
        self._buffer, self._number = b"", 0
        self.faults: list[str] = []
        """Errors of pages, and what their policy forbade."""
        target = self._send("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session = self._send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self._send(f"{domain}.enable")

    def close(self) -> None:
        """Ends the browser."""
        self._process.kill()
        self._process.wait()
        for descriptor in (self._in, self._out):
            os.close(descriptor)

    def open(self, address: str, *, width: int = 1400, height: int = 900) -> None:
        """Opens an address and waits until its script says that it is ready."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._send("Emulation.setDeviceMetricsOverride", size)
        self._send("Page.navigate", {"url": address})
        self.until("document.documentElement.dataset.ready === 'true'")

    def ask(self, expression: str) -> Any:
        """Returns the value of an expression of the page, awaited, as JSON."""
        told = self._send(
            "Runtime.evaluate",
            {"expression": expression, "awaitPromise": True, "returnByValue": True, "userGesture": True},
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, expression: str) -> Any:
        """Waits until an expression is true, and returns it."""
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            if value := self.ask(f"(() => {{ try {{ return {expression}; }} catch {{ return false; }} }})()"):
                return value
            time.sleep(0.02)
        raise AssertionError(
            f"{expression} was not true within {_SECONDS:.0f} s; {self.ask('document.body.innerText')}"
        )

    def choose_file(self, selector: str, path: Path) -> None:
        """Chooses a file in an input."""
        root = self._send("DOM.getDocument")["root"]["nodeId"]
        node = self._send("DOM.querySelector", {"nodeId": root, "selector": selector})["nodeId"]
        self._send("DOM.setFileInputFiles", {"files": [str(path)], "nodeId": node})

    def _send(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters or {}}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            told = self._receive()
            if told.get("id") == message["id"]:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self._note(told)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            readable, _, _ = select.select([self._in], [], [], 2 * _SECONDS)
            assert readable, "the browser does not answer"
            piece = os.read(self._in, 2**16)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        if event["method"] == "Runtime.exceptionThrown":
            self.faults.append(str(event["params"]["exceptionDetails"]))
        if event["method"] == "Log.entryAdded" and event["params"]["entry"]["source"] in ("security", "violation"):
            self.faults.append(event["params"]["entry"]["text"])
