"""Walk through the built site in a browser, as a newcomer would: ``python docs/walk_site.py SITE``.

Links are found by their visible text, and queries are typed. Three tasks must succeed: from the
start page to a training step with a mask in two clicks; from the search box to the right loss; from
an error message to its cause and its fix.
"""

import argparse
import sys
from pathlib import Path

from browser import Browser, browser_of

WIDTH = 1400
LINK = """
return [...document.querySelectorAll("main a, main .sd-card-title")].find(
  (link) => link.checkVisibility() && link.innerText.trim() === arguments[0]);
"""
OPEN_SEARCH = """
return [...document.querySelectorAll("button, .search-button-field")].find(
  (button) => button.checkVisibility() && /search/i.test(button.innerText + button.ariaLabel));
"""
SEARCH_BOX = """
return [...document.querySelectorAll("input[name=q]")].find((box) => box.checkVisibility());
"""
FIRST_RESULT = """
const done = document.querySelector("#search-results .search-summary")?.innerText;
return done ? document.querySelector("#search-results li a") : null;
"""
TEXT = "return document.querySelector('article').innerText.replace(/\\s+/g, ' ')"
QUERIES = {
    "boxes that do not overlap": "giou_loss(",
    "cross entropy": "cross_entropy(",
    "dice": "dice_loss(",
    "focal loss": "sigmoid_focal_loss(",
    "giou": "giou_loss(",
    "label smoothing": "label_smoothing",
    "ohem": "HardMeanLoss(",
    "padding": "where=",
}
ERRORS = {
    "Gradient only defined for scalar-output functions": "The reducer is missing",
    "NaN loss": "a label that is not a class",
    "recompiles every step": "Create it once",
    "reducer must be a function of the losses": "A reducer is a function",
    "labels off by one": "Labels count from 0",
    "one-hot labels": "one-hot labels are probabilities",
}


def expect(browser: Browser, *words: str) -> None:
    text = browser.run(TEXT)
    for word in words:
        if word not in text:
            raise AssertionError(
                f'"{word}" is not on the page {browser.run("return document.URL")}'
            )


def go(browser: Browser, script: str, *arguments) -> None:
    """Click on a link, and wait for the next page."""
    browser.run("window.leaving = true")
    browser.click(script, *arguments)
    browser.wait("return !window.leaving && document.readyState === 'complete'")


def search(browser: Browser, query: str) -> None:
    """Type a query into the search box of the start page, and open the first result."""
    browser.open("index.html", WIDTH)
    browser.click(OPEN_SEARCH)
    browser.run("window.leaving = true")
    browser.type(SEARCH_BOX, query)
    browser.wait("return !window.leaving && document.readyState === 'complete'")
    go(browser, FIRST_RESULT)


def find_a_training_step(browser: Browser) -> None:
    for links in (
        ["Get started"],
        ["Train a model"],
        ["Choose a loss", "iou_loss"],
        ["Box regression"],
    ):
        browser.open("index.html", WIDTH)
        for link in links:
            go(browser, LINK, link)
        expect(browser, "def train_step(", "Optimizer(", "valid")


def find_the_loss(browser: Browser) -> None:
    for query, code in QUERIES.items():
        search(browser, query)
        expect(browser, code)


def find_the_cause(browser: Browser) -> None:
    for message, cause in ERRORS.items():
        search(browser, message)
        expect(browser, cause)


TASKS = [find_a_training_step, find_the_loss, find_the_cause]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("site", type=lambda folder: Path(folder).resolve())
    failed = False
    with browser_of(parser.parse_args().site) as browser:
        for task in TASKS:
            try:
                task(browser)
                print(f"{task.__name__}: done")
            except (AssertionError, TimeoutError) as error:
                failed = True
                print(f"{task.__name__}: {error}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
