"""A hub with the models that pages name, and what is left by the pages that others go on from."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from documents import ROOT, Session, before, blocks, go_on
from many_models import serve_models


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Point commands to a hub on loopback, with an empty cache, and to this tree."""
    home = tmp_path_factory.mktemp("home")
    # Ray's sockets lie below TMPDIR, and their paths may have 107 bytes.
    with serve_models(home / "models") as hub, tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as short:
        bin_of_this = str(Path(sys.executable).parent)
        yield {
            **os.environ,
            **hub.environment(home),
            "HOME": str(home),
            "TMPDIR": short,
            "PATH": f"{bin_of_this}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "100",
        }


@pytest.fixture(scope="session")
def left_by(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Run a page once, and give the folder that its blocks leave."""
    left: dict[Path, Path] = {}

    def run(page: Path) -> Path:
        if page not in left:
            session = Session(tmp_path_factory.mktemp(page.stem), environment)
            try:
                for block in blocks(page):
                    session.run(block)
            finally:
                session.close()
            left[page] = session.folder
        return left[page]

    return run


@pytest.fixture
def session_of(
    environment: dict[str, str], left_by: Callable[[Path], Path], tmp_path: Path
) -> Iterator[Callable[[Path], Session]]:
    """Open the session of a page."""
    opened: list[Session] = []

    def open_one(page: Path) -> Session:
        base = before(page)
        folder = tmp_path / "page"
        if base is None:
            folder.mkdir()
        else:
            go_on(left_by(base), folder)
        opened.append(Session(folder, environment))
        return opened[-1]

    yield open_one
    for session in opened:
        session.close()
