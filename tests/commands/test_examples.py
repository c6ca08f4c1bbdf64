"""`embed-ops examples`: what it copies, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stage_runs import invoke

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_it_copies_everything(tmp_path: Path) -> None:
    """Specs, programs and notebooks, byte for byte; a second time changes nothing."""
    for _ in range(2):
        code, said = invoke("examples", tmp_path / "first")
        assert code == 0
        assert "python make_data.py" in said
    kept = {path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*") if path.suffix in (".toml", ".ipynb")}
    copied = {path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*.*")}
    assert kept < copied
    assert all((tmp_path / "first" / name).read_bytes() == (EXAMPLES / name).read_bytes() for name in copied)


def test_files_of_the_user_stay(tmp_path: Path) -> None:
    """A file of one of their names is refused before anything is written; so is no folder."""
    (tmp_path / "in_memory.py").write_text("mine")
    code, said = invoke("examples", tmp_path)
    assert code == 2
    assert "in_memory.py: is there already with other contents; name a new folder" in said
    assert [path.name for path in tmp_path.iterdir()] == ["in_memory.py"]
    code, said = invoke("examples", tmp_path / "in_memory.py")
    assert code == 2
    assert "in_memory.py: is a file; name a folder for the examples" in said


def test_data_are_made_once(tmp_path: Path) -> None:
    """What is there is left alone; a name that nobody makes is exit 2, with those that are."""
    program = [sys.executable, str(EXAMPLES / "make_data.py")]
    (tmp_path / "articles").mkdir()

    def make(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *words], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert make("articles").stdout == "articles/: is there\n"
    assert list((tmp_path / "articles").iterdir()) == []
    told = make("docstring")
    assert (told.returncode, told.stdout) == (2, "")
    assert "docstrings" in told.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "articles"]
