"""A Chromium that opens the built site, controlled through the WebDriver protocol.

It needs Chromium and its driver (Debian: ``apt install chromium chromium-driver``).
"""

import base64
import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
READY = (
    "return [...document.images].every(image => image.complete) && "
    "[...document.querySelectorAll('.math')].every(m => m.querySelector('mjx-container'))"
)
CENTRE = """
arguments[0].scrollIntoView({block: "center", behavior: "instant"});
const box = arguments[0].getClientRects()[0];
return [box.x + box.width / 2, box.y + box.height / 2];
"""
KEYS = {"Enter": "\ue007"}  # of the WebDriver protocol
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which it stores an element


class Browser:
    """Chromium with one window."""

    def __init__(self, driver: str, site: str):
        self.site = site
        self.profile = tempfile.mkdtemp()
        self.driver = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        for line in self.driver.stdout:
            if "successfully on port" in line:
                self.url = f"http://127.0.0.1:{line.split()[-1].rstrip('.')}/session"
                break
        options = {"args": [*FLAGS, f"--user-data-dir={self.profile}"]}
        capabilities = {"alwaysMatch": {"goog:chromeOptions": options}}
        self.url += "/" + self.post("", capabilities=capabilities)["sessionId"]

    def post(self, command: str, **body):
        data = json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + command, data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def devtools(self, command: str, **parameters):
        return self.post("/goog/cdp/execute", cmd=command, params=parameters)

    def run(self, script: str, *arguments):
        """Run JavaScript; a promise that it returns is awaited."""
        return self.post("/execute/sync", script=script, args=list(arguments))

    def resize(self, width: int, height: int = 900) -> None:
        screen = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.devtools("Emulation.setDeviceMetricsOverride", **screen)

    def open(self, page: str, width: int) -> None:
        """Open a page of the site and wait until its pictures and formulas are there."""
        self.resize(width)
        self.post("/url", url=f"{self.site}/{page}")
        self.run("for (const image of document.images) image.loading = 'eager'")
        with contextlib.suppress(TimeoutError):  # what is missing is reported by the check
            self.wait(READY)

    def wait(self, script: str, *arguments, seconds: float = 10):
        """Wait until a script returns something true, and return that."""
        until = time.time() + seconds
        while time.time() < until:
            if found := self.run(script, *arguments):
                return found
            time.sleep(0.05)
        raise TimeoutError(f"after {seconds} s this is still false: {script}")

    def click(self, script: str, *arguments) -> None:
        """Click with the mouse on the element that a script returns."""
        element = self.wait(script, *arguments)
        x, y = self.run(CENTRE, element)
        for event in ("mousePressed", "mouseReleased"):
            where = dict(x=x, y=y, button="left", clickCount=1)
            self.devtools("Input.dispatchMouseEvent", type=event, **where)

    def type(self, script: str, text: str, *arguments) -> None:
        """Type into the element that a script returns, and press Enter."""
        element = self.wait(script, *arguments)
        self.post(f"/element/{element[ELEMENT]}/value", text=text + KEYS["Enter"])

    def screenshot(self, path: Path, width: int) -> None:
        self.resize(width, self.run("return document.documentElement.scrollHeight"))
        path.write_bytes(base64.b64decode(self.devtools("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self.url, method="DELETE"))
        self.driver.terminate()
        self.driver.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without logging each request."""

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def browser_of(site: Path) -> Iterator[Browser]:
    """Serve the site and open a browser for it. Without Chromium and its driver this fails."""
    driver = shutil.which("chromedriver")
    if driver is None:
        raise SystemExit("chromedriver was not found: apt install chromium chromium-driver")
    handler = functools.partial(QuietHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser = Browser(driver, f"http://127.0.0.1:{server.server_port}")
    try:
        yield browser
    finally:
        browser.close()
        server.shutdown()
