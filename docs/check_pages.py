"""Check the built site: all local links must resolve, and all pages must render in a browser.

``python docs/check_pages.py docs/_build/html [--screenshots FOLDER]``. The rendering check needs
Chromium and its driver (Debian: ``apt install chromium chromium-driver``). Without them only links
are checked, and a message says so.
"""

import argparse
import base64
import functools
import http.server
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

WIDTHS = (1400, 390)
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
# Runs in the page and returns a list of visible problems.
PROBLEMS = """
const problems = [];
for (const image of document.images) {
  if (!image.complete || !image.naturalWidth) problems.push(`missing image ${image.src}`);
  if (!image.alt || image.src.endsWith(image.alt)) problems.push(`image without alt ${image.src}`);
}
for (const formula of document.querySelectorAll(".math")) {
  const box = formula.querySelector("mjx-container");
  if (!box || formula.querySelector("mjx-merror")) problems.push(`formula ${formula.textContent}`);
}
const excess = document.documentElement.scrollWidth - document.documentElement.clientWidth;
if (excess > 0) problems.push(`${excess} px wider than the window`);
return problems;
"""


class Page(HTMLParser):
    """The anchors and the links of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links = {"", "top"}, set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[a] for a in ("id", "name") if found.get(a)}
        self.links |= {found[a] for a in ("href", "src") if found.get(a)}


def built(site: Path) -> list[Path]:
    return sorted(p for p in site.rglob("*.html") if p.relative_to(site).parts[0] != "_static")


def broken_links(site: Path) -> list[str]:
    pages = {path: Page(path) for path in built(site)}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            missing_anchor = (
                target in pages and unquote(parts.fragment) not in pages[target].anchors
            )
            if not target.exists() or missing_anchor:
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken


class Browser:
    """Chromium, controlled through the WebDriver protocol."""

    def __init__(self, driver: str):
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
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)["value"]

    def devtools(self, command: str, **parameters):
        return self.post("/goog/cdp/execute", cmd=command, params=parameters)

    def run(self, script: str):
        return self.post("/execute/sync", script=script, args=[])

    def resize(self, width: int, height: int) -> None:
        screen = dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.devtools("Emulation.setDeviceMetricsOverride", **screen)

    def open(self, url: str, width: int) -> None:
        self.resize(width, 900)
        self.post("/url", url=url)
        self.run("for (const image of document.images) image.loading = 'eager'")
        ready = (
            "return [...document.images].every(image => image.complete) && "
            "[...document.querySelectorAll('.math')].every(m => m.querySelector('mjx-container'))"
        )
        until = time.time() + 10
        while time.time() < until and not self.run(ready):
            time.sleep(0.1)

    def screenshot(self, path: Path, width: int) -> None:
        self.resize(width, self.run("return document.documentElement.scrollHeight"))
        path.write_bytes(base64.b64decode(self.devtools("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        urllib.request.urlopen(urllib.request.Request(self.url, method="DELETE"))
        self.driver.terminate()
        shutil.rmtree(self.profile, ignore_errors=True)


def rendering_problems(site: Path, driver: str, screenshots: Path | None) -> list[str]:
    handler = functools.partial(QuietHandler, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    browser, problems = Browser(driver), []
    try:
        for path in built(site):
            name = path.relative_to(site)
            for width in WIDTHS:
                browser.open(f"http://127.0.0.1:{server.server_port}/{name}", width)
                problems += [f"{name} at {width} px: {found}" for found in browser.run(PROBLEMS)]
                if screenshots is not None:
                    screenshots.mkdir(parents=True, exist_ok=True)
                    shot = "_".join(name.with_suffix("").parts) + f"_{width}.png"
                    browser.screenshot(screenshots / shot, width)
    finally:
        browser.close()
        server.shutdown()
    return problems


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without logging each request."""

    def log_message(self, *_):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=lambda folder: Path(folder).resolve())
    parser.add_argument("--screenshots", type=Path)
    options = parser.parse_args()
    problems = broken_links(options.site)
    driver = shutil.which("chromedriver")
    if driver is None:
        print("chromedriver was not found: only links were checked, not rendering.")
    else:
        problems += rendering_problems(options.site, driver, options.screenshots)
    print("\n".join(problems) or "No problems found.")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
