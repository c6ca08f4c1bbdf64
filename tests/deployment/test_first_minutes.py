"""The first ten minutes: README from its top, word for word, with the wheel and no checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT, Session, blocks
from many_models import serve_models

OURS = re.compile(r"embed_ops|__editable__|_?distutils-precedence|easy-install")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment that has every package of this one but ours, by links."""
    place = tmp_path_factory.mktemp("venv") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    [site] = place.glob("lib/python*/site-packages")
    # Python 3.11 puts a setuptools there that is older than what torch asks for.
    for old in site.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if not OURS.match(package.name):
            (site / package.name).symlink_to(package)
    return place / "bin" / "python"


@pytest.fixture(scope="module")
def reader(wheel: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Give the variables of somebody with an empty home, a hub, and an index that has the wheel."""
    home = tmp_path_factory.mktemp("home")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
    # Ray's sockets lie below TMPDIR, and their paths may have 107 bytes.
    with serve_models(home / "models") as hub, tempfile.TemporaryDirectory(prefix="d", dir="/tmp") as short:
        yield {
            **kept,
            **hub.environment(home),
            "HOME": str(home),
            "TMPDIR": short,
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheel.parent),
        }


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
def test_the_first_ten_minutes(reader: dict[str, str], python: Path, tmp_path: Path) -> None:
    """Texts, images and a graph: every command ends with exit 0 and leaves what README names."""
    session = Session(tmp_path, reader, python=python)
    try:
        for block in blocks(ROOT / "README.md"):
            session.run(block)
        home = session.shell('python -c "import embed_ops; print(embed_ops.__file__)"', "where").strip()
    finally:
        session.close()
    assert Path(home).is_relative_to(python.parent.parent)
    assert session.folder == tmp_path / "first"
    made = (
        "embedded/report.html",
        "embedded/stages/kmeans/run.json",
        "out/images/run.json",
        "out/graph/run.json",
    )
    assert [name for name in made if not (session.folder / name).is_file()] == []
    assert (tmp_path / "demo/report.html").is_file()
    assert "every row once" in "".join(session.said)
