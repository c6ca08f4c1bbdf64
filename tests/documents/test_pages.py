"""Each page from its top to its end, as it stands, by the real commands, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from documents import PAGES, ROOT, Session, before, blocks
from test_blocks import EXAMPLES, head_of

AFTER = {before(page) for page in PAGES}
RUN = [page for page in PAGES if page.name != "README.md" and any(block.runs for block in blocks(page))]
LOCAL = [path for path in EXAMPLES if path.stem.endswith(("_laptop", "_template"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, session_of: Callable[[Path], Session], left_by: Callable[[Path], Path]) -> None:
    """Every block that says nothing else is run, in order, and ends with exit 0."""
    if page in AFTER:
        left_by(page)
        return
    session = session_of(page)
    for block in blocks(page):
        session.run(block)


@pytest.mark.slow
@pytest.mark.parametrize("path", LOCAL, ids=lambda path: path.stem)
def test_example(path: Path, session_of: Callable[[Path], Session]) -> None:
    """The commands that an example begins with, in a folder that `embed-ops examples` makes."""
    session = session_of(ROOT / "examples")
    session.shell("embed-ops examples here && cd here", path.name)
    session.shell(head_of(path), path.name)
    assert session.said[-1] != ""
