"""Pictures of the chat page, taken from a server that runs.

    python -m scripts.screenshots http://127.0.0.1:8000 docs/

Asks a few questions first, so the conversation is stored like any other. Needs Chromium or Chrome on the PATH and the
Python package playwright.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

QUESTIONS = (
    ("Dialectical", "What makes a question worth asking?"),
    ("All three", "Can something be both true and false?"),
)
ANSWER = 300_000  # ms that an answer may take on a slow machine


def main() -> None:
    """Read the arguments, drive the browser, write chat.png, lineage.png, dark.png and phone.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="root of the server, such as http://127.0.0.1:8000")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    given = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("no Chromium or Chrome on the PATH; install one first.")
    given.folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        take(browser, given.url.rstrip("/"), given.folder)
        browser.close()


def take(browser: Browser, url: str, folder: Path) -> None:
    """One conversation, seen in both views, both themes and two sizes."""
    page = opened(browser, url, 1280, 800, dark=False)
    for voice, question in QUESTIONS:
        ask(page, voice, question)
    page.screenshot(path=folder / "chat.png")
    conversation = page.url

    page.get_by_role("link", name="Lineage", exact=True).click()
    expect(page.locator(".curves .chart, .curves .empty").first).to_be_visible()
    page.screenshot(path=folder / "lineage.png")

    for name, width, height, dark in (("dark.png", 1280, 800, True), ("phone.png", 390, 844, False)):
        page = opened(browser, conversation, width, height, dark)
        expect(page.locator("article .label").last).to_be_visible()
        page.screenshot(path=folder / name)


def opened(browser: Browser, url: str, width: int, height: int, dark: bool) -> Page:
    """The page as a visitor with this screen sees it first, its header filled in."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#connection")).to_have_text("connected")
    return page


def ask(page: Page, voice: str, question: str) -> None:
    """Send a message and wait until every answer to it is stored."""
    page.get_by_role("radio", name=voice, exact=True).check()
    page.get_by_label("Your message").fill(question)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=ANSWER)
    if page.get_by_role("alert").count():
        raise SystemExit(f"no answer: {page.get_by_role('alert').first.inner_text()}")


if __name__ == "__main__":
    main()
