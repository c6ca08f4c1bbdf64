"""The pages: links lead somewhere, prose and examples wrap at 100 columns. Asks no network."""

from __future__ import annotations

import itertools
import re
from functools import cache
from pathlib import Path

import pytest
import words
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
HERE = re.compile(r"https://github\.com/embed-ops/embed-ops/(?:blob|tree)/main/")
"""How pages of the site name files of this checkout that are not in the site."""
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])
EXAMPLES = sorted(ROOT.glob("examples/*.toml"))
WIDTH = 100
PARSER = MarkdownIt("commonmark").enable("table")


def tokens_of(page: Path) -> list[Token]:
    """Parse a page."""
    return PARSER.parse(page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Give the anchors of a page's headings, as GitHub and the site make them."""
    pairs = itertools.pairwise(tokens_of(page))
    titles = [after.content.lower() for token, after in pairs if token.type == "heading_open"]
    return frozenset(re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles)


def links(page: Path) -> list[str]:
    """List the targets of a page's links and pictures."""
    parts = [child for token in tokens_of(page) for child in token.children or ()]
    named = {"link_open": "href", "image": "src"}
    return [str(part.attrs[named[part.type]]) for part in parts if part.type in named]


def dangling(page: Path, link: str) -> bool:
    """Tell whether a link names a file of this checkout or a heading that is not there."""
    base = ROOT if HERE.match(link) else page.parent
    path, _, anchor = HERE.sub("", link).partition("#")
    if re.match(r"[a-z]+:", path):
        return False
    place = (base / path).resolve() if path else page
    return not place.exists() or bool(anchor and anchor not in anchors(place))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Every link leads to a file that is there, and to a heading that it has."""
    assert [link for link in links(page) if dangling(page, link)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_wraps(page: Path) -> None:
    """No line of prose is wider than 100 columns; tables, code and single words may be."""
    lines = page.read_text(encoding="utf-8").splitlines()
    blocks = [token.map for token in tokens_of(page) if token.type in ("paragraph_open", "heading_open")]
    numbers = [number for block in blocks if block for number in range(*block)]
    wide = [number + 1 for number in numbers if len(lines[number]) > WIDTH]
    assert [number for number in wide if " " in lines[number - 1].lstrip("-* ")] == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_examples_wrap(example: Path) -> None:
    """No line of an example is wider than 100 columns."""
    lines = example.read_text(encoding="utf-8").splitlines()
    assert [number for number, line in enumerate(lines, 1) if len(line) > WIDTH] == []


def test_every_page_is_in_the_site() -> None:
    """The navigation names every page of `docs/`; the site itself is built by `make docs`."""
    named = set(re.findall(r"- ([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert named == {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/**/*.md")}


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("docs/**/*.md")), ids=lambda page: str(page)[len(str(ROOT)) :]
)
def test_named_modules(page: Path) -> None:
    """Every module that a page names by its folder is there."""
    named = set(re.findall(r"(?<![\w/])[\w/]+/\w+\.py\b", page.read_text(encoding="utf-8")))
    there = {name for name in named for folder in (ROOT, ROOT / "embed_ops") if (folder / name).is_file()}
    assert sorted(name for name in named - there if "NAME" not in name) == []


@pytest.mark.parametrize("page", words.pages(), ids=lambda page: page.stem)
def test_words_are_explained(page: Path) -> None:
    """A page that uses a word with a meaning of its own says on top where it is explained."""
    text = page.read_text(encoding="utf-8")
    assert words.line_in(text) == words.line_of(text)


def test_words_stand_in_their_table() -> None:
    """The table of `index.md` explains each of them."""
    rows = re.findall(r"^\| (\w+) \| ", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [word for word in words.WORDS if word not in rows] == []
