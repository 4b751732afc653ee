"""Check the built site: its links, how its pages look in a browser, and its search.

``python docs/check_pages.py docs/_build/html [--screenshots FOLDER] [--only-links]``. It fails if
there is no browser; ``--only-links`` needs none.

At 1400 px no box of code, table or formula may be wider than its place. At 390 px it may be, if a
scrollbar shows that it goes on.
"""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from browser import Browser, browser_of

WIDTHS = (1400, 390)
# The page that each query should find first.
FIRST = {
    "cross entropy": "gallery/cross_entropy",
    "dice": "gallery/dice_loss",
    "focal": "gallery/sigmoid_focal_loss",
    "giou": "gallery/giou_loss",
    "install": "get_started",
    "iou_loss": "gallery/iou_loss",
    "mask": "masks",
    "nan": "common_errors",
    "padding": "masks",
    "scalar-output": "common_errors",
}
# Runs in the page and returns a list of visible problems. What is folded away is opened first.
PROBLEMS = """
const problems = [], wide = arguments[0] > 600;
for (const folded of document.querySelectorAll("details")) folded.open = true;
for (const tab of document.querySelectorAll(".sd-tab-content")) tab.style.display = "block";
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
for (const box of document.querySelectorAll("body *")) {
  const style = getComputedStyle(box), hidden = box.scrollWidth - box.clientWidth;
  if (hidden <= 1 || !box.clientWidth || style.display === "inline") continue;
  if (style.overflowX === "visible" || box.closest("mjx-assistive-mml, mjx-ext")) continue;
  const borders = parseFloat(style.borderTopWidth) + parseFloat(style.borderBottomWidth);
  const bar = box.offsetHeight - box.clientHeight - borders;
  if (wide || bar < 4) {
    const what = `${box.tagName.toLowerCase()} "${box.textContent.trim().slice(0, 40)}"`;
    problems.push(`${hidden} px of ${what} are cut off${wide ? "" : ", without a scrollbar"}`);
  }
}
for (const word of document.querySelectorAll("article td code, dt.sig .sig-name")) {
  for (const text of word.querySelectorAll(".pre, .descname")) {
    for (const node of text.childNodes) {
      const range = document.createRange();
      range.selectNodeContents(node);
      const lines = new Set([...range.getClientRects()].map((line) => line.top));
      if (node.nodeType === Node.TEXT_NODE && lines.size > 1 && !/[^\\w]/.test(node.data)) {
        problems.push(`"${word.textContent}" is broken inside a word`);
      }
    }
  }
}
return problems;
"""
# Runs on the page of search results: the pages found, and what the excerpts say.
RESULTS = """
const items = [...document.querySelectorAll("#search-results li")];
const ready = document.querySelector("#search-results .search-summary")?.innerText;
if (!ready || !items.length) return null;
const waiting = items.filter((i) => !i.querySelector("p.context, span:not(.highlighted)"));
if (waiting.length) return null;
return items.map((item) => [
  item.querySelector("a").getAttribute("href"), item.querySelector("p.context")?.innerText ?? ""]);
"""
# The text of an article, without the names of columns that only a phone shows.
ARTICLE = """
const page = new DOMParser().parseFromString(await (await fetch(arguments[0])).text(), "text/html");
for (const extra of page.querySelectorAll(".column, .headerlink, .math")) extra.remove();
return page.querySelector("article").textContent.replace(/\\s+/g, " ");
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


def rendering_problems(browser: Browser, site: Path, screenshots: Path | None) -> list[str]:
    problems = []
    for path in built(site):
        name = path.relative_to(site)
        for width in WIDTHS:
            browser.open(str(name), width)
            if screenshots is not None:
                screenshots.mkdir(parents=True, exist_ok=True)
                shot = "_".join(name.with_suffix("").parts) + f"_{width}.png"
                browser.screenshot(screenshots / shot, width)
                browser.resize(width)
            found = dict.fromkeys(browser.run(PROBLEMS, width))
            problems += [f"{name} at {width} px: {problem}" for problem in found]
    return problems


def search_problems(browser: Browser) -> list[str]:
    """Return the queries that find another page first, and excerpts that no page contains."""
    problems = []
    for query, page in FIRST.items():
        browser.open(f"search.html?q={query.replace(' ', '+')}", WIDTHS[0])
        try:
            results = browser.wait(RESULTS)
        except TimeoutError:
            problems.append(f'search "{query}": no results, or a result without an excerpt')
            continue
        first = results[0][0].partition(".html")[0]
        if first != page:
            problems.append(f'search "{query}": {first} comes first, and not {page}')
        for link, excerpt in results:
            text = " ".join(excerpt.split()).strip(". …")
            if text and text not in browser.run(ARTICLE, link):
                problems.append(f'search "{query}": {link} does not contain the excerpt "{text}"')
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("site", type=lambda folder: Path(folder).resolve())
    parser.add_argument("--screenshots", type=Path)
    parser.add_argument("--only-links", action="store_true")
    options = parser.parse_args()
    if not built(options.site):
        sys.exit(f"There are no pages in {options.site}.")
    problems = broken_links(options.site)
    if not options.only_links:
        with browser_of(options.site) as browser:
            problems += rendering_problems(browser, options.site, options.screenshots)
            problems += search_problems(browser)
    print("\n".join(problems) or "No problems found.")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
