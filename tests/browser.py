"""A page in a real browser, for the tests of the reports; the fixture ``file`` is its address."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

browser_test = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed"),
]


@dataclass(frozen=True)
class Watched:
    """A page open in the browser, with everything that it said and asked for."""

    page: Any
    trouble: list[str]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, file: str, request: pytest.FixtureRequest) -> Iterator[Watched]:
    width, height = getattr(request, "param", (1200, 900))
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme="light", reduced_motion="reduce"
    )
    trouble: list[str] = []
    context.set_default_timeout(10_000)
    view = context.new_page()
    view.on("console", lambda message: trouble.append(f"console: {message.text}"))
    view.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    view.on("dialog", lambda dialog: (trouble.append("dialog"), dialog.dismiss()))
    view.on(
        "request",
        lambda asked: (
            None
            if asked.url == file or asked.url.startswith("data:")
            else trouble.append(f"request: {asked.url}")
        ),
    )
    view.goto(file)
    yield Watched(view, trouble)
    context.close()
    assert trouble == []
