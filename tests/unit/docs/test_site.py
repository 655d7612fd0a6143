"""The documentation as a site: built without a warning, whole, and nothing in it asks another host."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support.browser import page_at, running_browser
from tests.support.repository import ROOT

SOURCES = ROOT / "docs"
FOREIGN = re.compile(r"(?:https?:)?//", re.IGNORECASE)
IN_STYLES = re.compile(r"@import\s+[^;]*|url\(\s*['\"]?([^'\")]*)")


@dataclass
class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)
    places: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def read(cls, path: Path) -> Page:
        page = cls()
        page.feed(path.read_text("utf-8"))
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        self.places.update(value for name, value in said.items() if name in ("id", "name"))
        self.loads.extend(
            value for name, value in said.items() if name in ("src", "srcset", "poster", "data", "action")
        )
        if "href" in said:
            (self.links if tag == "a" else self.loads).append(said["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    strictly = ["--quiet", "--fail-on-warning", "--keep-going", "-d", str(folder / "doctrees")]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *strictly, str(SOURCES), str(folder / "html")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page.read(path) for path in site.rglob("*.html")}


def test_every_link_leads_somewhere(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            places = pages[target].places if target in pages else set()
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in places):
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_every_page_is_in_the_navigation(site: Path, pages: dict[Path, Page]) -> None:
    sources = {path.relative_to(SOURCES).with_suffix(".html") for path in SOURCES.rglob("*.md")}
    reached = {
        Path(start).parent / link.partition("#")[0]
        for start in ("index.html", "decisions/README.html")
        for link in pages[site / start].links
    }
    assert len(sources) > 50
    assert sources - reached - {Path("index.html")} == set()


def test_every_other_file_is_shown_or_linked_to() -> None:
    told = "".join(path.read_text("utf-8") for path in (*SOURCES.rglob("*.md"), ROOT / "docker-compose.yml"))
    others = {path for path in SOURCES.rglob("*") if path.is_file() and path.suffix not in (".md", ".py", ".pyc")}
    assert [path.name for path in others if path.relative_to(SOURCES).as_posix() not in told] == []


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[Path, Page]) -> None:
    assert [load for page in pages.values() for load in page.loads if FOREIGN.match(load)] == []
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert styles
    assert [found[0] for text in styles for found in IN_STYLES.finditer(text) if FOREIGN.search(found[0])] == []


@pytest.fixture
def root(site: Path) -> Iterator[str]:
    """Where the site is served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_browser_asks_nobody_else_and_finds_words(root: str) -> None:
    with running_browser() as browser, page_at(browser, root, "") as page:
        page.goto(f"{root}/dashboard.html")
        page.goto(f"{root}/search.html?q=battery")
        page.get_by_role("link", name="Running a fleet").nth(1).wait_for()  # the first is the navigation's
