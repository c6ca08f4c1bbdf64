"""The notebooks say what the tutorial says, and run from their first cell to the last."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from documents import Session
from nbclient import NotebookClient
from notebooks import NOTEBOOKS, PAGES, notebook_of


@pytest.mark.parametrize("page", PAGES)
def test_notebooks_are_the_pages(page: str) -> None:
    """`python tests/fixtures/notebooks.py` writes them anew, after a page has changed."""
    assert (NOTEBOOKS / f"{page}.ipynb").read_text(encoding="utf-8") == notebook_of(page)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES)
def test_notebooks_run(
    page: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every cell ends without an error, where `embed-ops examples` has put the notebook."""
    Session(tmp_path, environment).shell("embed-ops examples first", page)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    place = tmp_path / "first" / "notebooks"
    notebook = nbformat.read(place / f"{page}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(place)}}
    NotebookClient(notebook, timeout=1200, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert any("rows" in output.get("text", "") for output in outputs)
