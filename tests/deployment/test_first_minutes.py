"""The first ten minutes: README from its top, word for word, with the wheel and no checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from documents import ROOT, Session, blocks
from many_models import serve_models

OURS = re.compile(r"embed_ops|__editable__|_?distutils-precedence|easy-install")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an environment that has every package of this one but ours."""
    others = tmp_path_factory.mktemp("others")
    for place in Path(sysconfig.get_path("purelib")).iterdir():
        if not OURS.match(place.name):
            (others / place.name).symlink_to(place)
    place = tmp_path_factory.mktemp("venv") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    [site] = place.glob("lib/python*/site-packages")
    (site / "others.pth").write_text(f"{others}\n")
    return place / "bin" / "python"


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
def test_the_first_ten_minutes(wheel: Path, python: Path, tmp_path: Path) -> None:
    """Texts, images and a graph: every command ends with exit 0 and leaves what README names."""
    with serve_models(tmp_path / "models") as hub:
        told = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))
        }
        session = Session(
            tmp_path / "clean",
            {
                **told,
                **hub.environment(tmp_path / "home"),
                "HOME": str(tmp_path / "home"),
                "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
                # The index that pip asks: a folder with the wheel.
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(wheel.parent),
            },
            python=python,
        )
        session.folder.mkdir()
        try:
            for block in blocks(ROOT / "README.md"):
                session.run(block)
            home = session.shell('python -c "import embed_ops; print(embed_ops.__file__)"', "where").strip()
        finally:
            session.close()
    assert Path(home).is_relative_to(python.parent.parent)
    first = tmp_path / "clean" / "first"
    assert session.folder == first
    for made in ("embedded/report.html", "embedded/stages/kmeans/run.json", "out/images/run.json"):
        assert (first / made).is_file()
    assert (tmp_path / "clean/demo/report.html").is_file()
    assert "every row once" in "".join(session.said)
