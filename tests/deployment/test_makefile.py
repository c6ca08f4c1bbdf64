"""`make setup` names the Python that it needs first, and replaces a .venv that does not fit."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/bash
case "$*" in
  --version) echo "Python {major}.{minor}.1" ;;
  *"< (3, 11)"*) exit {too_old} ;;
  *print*) echo "({major}, {minor})" ;;
  "-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy the Makefile beside Pythons of several versions that install nothing."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "bin").mkdir()
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    for minor in (10, 11, 12):
        python = tmp_path / "bin" / f"python3.{minor}"
        python.write_text(PYTHON.format(major=3, minor=minor, too_old=int(minor < 11)))
        python.chmod(0o755)
    return tmp_path


def made(checkout: Path, python: str) -> tuple[int, str, str]:
    """Run `make setup`: its exit code, what it said, and which Python .venv then has."""
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    ran = subprocess.run(
        ["make", "setup", f"PYTHON={python}"],
        cwd=checkout,
        env={**os.environ, "PATH": path, "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    place = checkout / ".venv" / "bin" / "python"
    version = place.read_text().partition("Python ")[2][:4] if place.exists() else ""
    return ran.returncode, ran.stdout + ran.stderr, version


def test_an_old_python_is_named_first(checkout: Path) -> None:
    """Nothing is made with a Python that is too old, or not there."""
    for python, found in (("python3.10", "python3.10 is Python 3.10.1"), ("nothing", "nothing is not there")):
        code, said, version = made(checkout, python)
        assert (code, version) == (2, "")
        assert f"needs Python 3.11 or newer; {found}. Name another: make setup PYTHON=python3.12" in said
        assert not (checkout / ".venv").exists()


def test_another_python_makes_it_anew(checkout: Path) -> None:
    """One that fits stays; one of another version, too old or broken is replaced."""
    assert made(checkout, "python3.11")[::2] == (0, "3.11")
    assert "made anew" not in made(checkout, "python3.11")[1]
    code, said, version = made(checkout, "python3.12")
    assert (code, version) == (0, "3.12")
    assert ".venv is of another Python, or broken: it is made anew" in said
    (checkout / ".venv" / "bin" / "python").unlink()
    assert made(checkout, "python3.12")[::2] == (0, "3.12")
