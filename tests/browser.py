"""A real Chromium without a window or a network, spoken to through a pipe."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
MISSING = "no chromium is on PATH (Debian: apt-get install chromium), which opens the HTML report"
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
    "--proxy-server=127.0.0.1:9",
]
KEYS = {
    "Tab": 9,
    "Enter": 13,
    "ArrowUp": 38,
    "ArrowDown": 40,
    "ArrowRight": 39,
    "ArrowLeft": 37,
    " ": 32,
}


class Browser:
    """A page in a browser. `said` has all that it complained of, `asked` all that it loaded."""

    def __init__(self, process: subprocess.Popen[bytes], send: int, receive: int) -> None:
        self.process = process
        self.send = send
        self.receive = os.fdopen(receive, "rb")
        self.session = ""
        self.number = 0
        self.buffer = b""
        self.said: list[str] = []
        self.asked: list[str] = []
        self.loaded = False
        self.untouched: tuple[Path, int, str] | None = None  # what is open, as it was opened
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Performance.enable", timeDomain="threadTicks")
        offline = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.call("Network.emulateNetworkConditions", offline=True, **offline)

    def call(self, method: str, **params: Any) -> Any:
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while (answer := self.hear()).get("id") != self.number:
            pass
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def hear(self) -> dict[str, Any]:
        """The next message; what it tells of the page is kept."""
        while b"\0" not in self.buffer:
            read = self.receive.read1(1 << 20)
            assert read, "the browser is gone"
            self.buffer += read
        line, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.consoleAPICalled":
                self.said.append(str([part.get("value") for part in params["args"]]))
            case "Runtime.exceptionThrown":
                self.said.append(json.dumps(params["exceptionDetails"]))
            case "Log.entryAdded":
                self.said.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked.append(params["request"]["url"])
            case "Page.loadEventFired":
                self.loaded = True
        return message

    def open(self, path: Path, width: int = 1280, *, scheme: str = "light") -> None:
        """Open a file; the page must say in its root's data when it is complete."""
        if self.untouched == (path, width, scheme):
            return
        self.said, self.asked, self.loaded = [], [], False
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=path.absolute().as_uri())
        while not self.loaded:
            self.hear()
        complete = "document.documentElement.dataset.complete"
        deadline = time.monotonic() + 30
        while not self.run(complete):
            assert not self.said, self.said
            assert time.monotonic() < deadline, "the page is never complete"
            time.sleep(0.01)
        self.untouched = (path, width, scheme)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        how = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", **how)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """As a mouse does, in the middle of what is there."""
        self.untouched = None
        place = self.run(f"""(() => {{
            const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{block: "center"}});
            const box = node.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }})()""")
        for kind in ("mousePressed", "mouseReleased"):
            how = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **how)

    def press(self, key: str) -> None:
        self.untouched = None
        code = KEYS[key]
        how = {"key": key, "windowsVirtualKeyCode": code, "nativeVirtualKeyCode": code}
        text = {"text": "\r" if key == "Enter" else key} if code in (13, 32) else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **how, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **how)

    def seconds(self) -> float:
        """Of computing, since the page was opened."""
        found = self.call("Performance.getMetrics")["metrics"]
        return float(next(each["value"] for each in found if each["name"] == "TaskDuration"))

    def picture(self, path: Path) -> None:
        how = {"format": "png", "captureBeyondViewport": True}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.call("Page.captureScreenshot", clip={**size, "scale": 1}, **how)
        path.write_bytes(base64.b64decode(shot["data"]))

    def paper(self, path: Path) -> None:
        self.untouched = None
        how = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": False}
        printed = self.call("Page.printToPDF", **how, printBackground=False)
        path.write_bytes(base64.b64decode(printed["data"]))


@contextlib.contextmanager
def browsing(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile of its own, which ends with all its children."""
    assert PROGRAM, MISSING
    (theirs_in, send), (receive, theirs_out) = os.pipe(), os.pipe()
    # The browser reads from its descriptor 3 and writes to 4; sh moves ours there.
    script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        [
            "bash",
            "-c",
            script,
            "bash",
            PROGRAM,
            *OPTIONS,
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    browser = Browser(process, send, receive)
    try:
        yield browser
        browser.session = ""
        browser.call("Browser.close")
        process.wait(30)
    finally:
        os.close(send)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        browser.receive.close()
