"""A headless Chromium, driven by the messages that its developer tools use; needs no other package."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_SECONDS = 60  # of one message at most, on a busy machine
# It reads messages from file 3 and writes to file 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_CODES = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """One process; close it."""

    def __init__(self, profile):
        reads, self._write = os.pipe()
        self._read, writes = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-background-networking", "--disable-gpu",
                   f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *map(str, ends), *command], pass_fds=ends, stderr=subprocess.DEVNULL
        )
        for end in (reads, writes, *ends):
            os.close(end)
        self._number, self._rest, self.told = 0, b"", []

    def close(self):
        os.close(self._write)
        os.close(self._read)
        self._process.kill()
        self._process.wait(10)

    def send(self, method, session=None, **params):
        """Return the answer to a message; what is told meanwhile is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        until = time.monotonic() + _SECONDS
        while True:
            told = self._next(until)
            if told.get("id") == self._number:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self.told.append(told)

    def _next(self, until):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, until - time.monotonic()))
            part = os.read(self._read, 2**20) if ready else b""
            assert part, "the browser doesn't answer"
            self._rest += part
        told, _, self._rest = self._rest.partition(b"\0")
        return json.loads(told)

    def page(self, address, width=1200, scheme="light"):
        """Open an address in a window of its own."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"], target)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        page.send("Emulation.setFocusEmulationEnabled", enabled=True)
        page.send("Page.navigate", url=address)
        page.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return page


class Page:
    """A window of a browser."""

    def __init__(self, browser, session, target):
        self.browser, self.session, self.target = browser, session, target

    def send(self, method, **params):
        return self.browser.send(method, self.session, **params)

    def close(self):
        self.browser.send("Target.closeTarget", targetId=self.target)

    def run(self, script):
        """Return what an expression is in the page."""
        told = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, script, seconds=30):
        """Wait until an expression is true."""
        until = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < until, script
            time.sleep(0.03)

    def type(self, text):
        for letter in text:
            self.send("Input.dispatchKeyEvent", type="char", text=letter)

    def press(self, key):
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=_CODES.get(key, 0))

    def drop(self, selector, files=(), **items):
        """Drag files, or items by their kind, onto an element."""
        place = self.run(
            f"(({{x, y}}) => [x + 9, y + 9])(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        given = [{"mimeType": kind.replace("_", "/"), "data": data} for kind, data in items.items()]
        data = {"items": given, "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=place[0], y=place[1], data=data)

    def events(self, name):
        """Return what was told of this window by one name."""
        self.run("0")  # all that was told before
        told = [event for event in self.browser.told if event.get("sessionId") == self.session]
        return [event["params"] for event in told if event["method"] == name]
