"""Images on the page of a run: small, those that were embedded, and not too many."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import fake_run
import numpy as np
import pytest
from PIL import Image

from embed_ops.analysis.page import thumbnails
from embed_ops.analysis.page.write import write_page
from embed_ops.spec.spec import Spec

IMAGES = 24


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run of images in two folders, of which one can't be decoded."""
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        place = tmp_path / f"images/{'ab'[number % 2]}/{number:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (90, 180, 3), np.uint8)).save(place)
    (tmp_path / "images/a/02.png").write_bytes(b"no image")
    tree = {
        "source": {"kind": "images", "path": str(tmp_path / "images"), "keep": ["path", "label"]},
        "encoder": {"family": "image", "model": "none"},
        "sink": {"path": str(tmp_path / "run")},
    }
    fake_run.make(Spec.parse(tree))
    return tmp_path / "run"


def shown(run: Path) -> dict[str, str]:
    """Write the page, and give the thumbnails on it by the path of their image."""
    page = Path(write_page(str(run), method="pca")).read_text()
    given = json.loads(re.search(r'id="points">(.*?)</script>', page)[1])  # type: ignore[index]
    paths = next(column for column in given["columns"] if column["name"] == "path")
    return {
        paths["values"][paths["codes"][int(row)]]: image for row, image in (given["thumbnails"] or {}).items()
    }


def test_rows_have_small_pictures_of_their_images(run: Path) -> None:
    """All that can be decoded, in their own proportions; what has changed since is not shown."""
    pictures = shown(run)
    assert set(pictures) == {f"{'ab'[n % 2]}/{n:02d}.png" for n in range(IMAGES) if n != 2}
    head, _, content = pictures["b/01.png"].partition(",")
    assert head == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (thumbnails.SIDE, thumbnails.SIDE // 2)
    (run.parent / "images/b/03.png").write_bytes(b"another")
    assert "b/03.png" not in shown(run)
    (run.parent / "images").rename(run.parent / "elsewhere")
    assert shown(run) == {}


def test_a_page_has_no_more_than_it_can_hold(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many rows every so many has a picture; files are not read beyond a limit."""
    monkeypatch.setattr(thumbnails, "_MOST", IMAGES // 4)
    assert 0 < len(shown(run)) <= IMAGES // 4
    monkeypatch.setattr(thumbnails, "_MOST", IMAGES)
    monkeypatch.setattr(thumbnails, "_MOST_READ", 100_000)
    assert len(shown(run)) == 3
