"""Debian's Chromium, driven by Playwright: pages that complain or ask other hosts fail their test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.support.polling import DEADLINE_S

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
_NOT_OURS = ("status of 503", "ERR_NETWORK_CHANGED")
"""A busy orchestrator, and an interface of this machine that came or went."""
_ARGUMENTS = ("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage")


def chromium() -> str:
    """The system's own browser: none is downloaded."""
    found = next(filter(None, map(shutil.which, _NAMES)), None) or (_MAC if os.path.exists(_MAC) else None)  # noqa: PTH110
    assert found, "there is no Chromium: run 'apt-get install chromium' and repeat"
    return found


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A browser without a window. As root it has no sandbox: it won't start with one."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    arguments = [*_ARGUMENTS, *(["--no-sandbox"] if is_root else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page_at(browser: Browser, root: str, view: str = "chat", *, quiet: bool = True, **options: Any) -> Iterator[Page]:
    """The page, in a session of its own; ``options`` are those of a browser's context.

    ``quiet``: nothing is to be complained of in its console, as refused requests are, but `_NOT_OURS`.
    """
    context = browser.new_context(**options)
    context.set_default_timeout(DEADLINE_S * 1e3)
    wrong: list[str] = []
    page = context.new_page()

    def complain(said: ConsoleMessage) -> None:
        if quiet and said.type in ("error", "warning") and not any(one in said.text for one in _NOT_OURS):
            wrong.append(f"{said.text} ({said.location})")

    page.on("console", complain)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(root) else wrong.append(f"asks {asked.url}"))
    try:
        page.goto(f"{root}/#{view}")
        yield page
    finally:
        context.close()
    assert not wrong, wrong
