"""The documentation as a site, for Sphinx: ``make docs-site``. Pages stay plain Markdown, as code hosts show them."""

from __future__ import annotations

import tomllib
from pathlib import Path

from sphinx.application import Sphinx

FOLDER = Path(__file__).parent
NAVIGATION = {
    "Begin": ("quick-start", "phone", "models", "dashboard", "troubleshooting"),
    "Run a fleet": ("operations", "configuration", "security", "reliability", "performance"),
    "Commands and interfaces": ("cli", "api", "mqtt", "requests"),
    "How it works": ("architecture", "planning", "balancing", "decisions/README"),
}
"""What a newcomer reads first comes first. A page that is in no part of it breaks the build."""
START, DECISIONS = "index", "decisions/README"

with (FOLDER.parent / "pyproject.toml").open("rb") as file:
    release = tomllib.load(file)["project"]["version"]
project = "linguabus"
html_title = f"linguabus {release}"
extensions = ["myst_parser"]
root_doc = START
myst_heading_anchors = 4  # links to headings are those of a code host
myst_enable_extensions = ["html_image"]
html_theme = "furo"  # fonts of the reader's system, and no script of another host
html_favicon = "../orchestrator/gateway/page/icon.svg"
html_copy_source = False
html_show_sphinx = False
html_use_index = False
highlight_language = "none"
smartquotes = False
nitpicky = True


def _add_contents(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put the navigation behind the pages that have one, so that no page has words for Sphinx alone."""
    if page == START:
        parts = [_contents(pages, caption) for caption, pages in NAVIGATION.items()]
        source[0] = "\n\n".join((source[0], *parts))
    elif page == DECISIONS:
        source[0] += "\n\n" + _contents(sorted(path.stem for path in (FOLDER / "decisions").glob("[0-9]*.md")))


def _contents(pages: tuple[str, ...] | list[str], caption: str = "") -> str:
    options = [":maxdepth: 1", *([":hidden:", f":caption: {caption}"] if caption else [])]
    return "\n".join(["```{toctree}", *options, "", *pages, "```"])


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.connect("source-read", _add_contents)
