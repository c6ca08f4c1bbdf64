"""What is shown of rows: texts of the source beside what was kept, pages with thumbnails."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from stage_runs import invoke
from tiny_runs import tiny_spec

from embed_ops import embed, neighbors
from embed_ops.analysis.neighbors import Neighbors
from embed_ops.analysis.queries import Answer
from embed_ops.analysis.sheet.neighbors import write_answer
from embed_ops.analysis.sheet.render import thumbnail
from embed_ops.analysis.shown import LONGEST, Shown
from embed_ops.analysis.tables import fit_columns

pytestmark = pytest.mark.usefixtures("engine")

WORDS = [f"w{number:02d}" for number in range(30)]
BAD = "<script>document.title='run'</script> \x1b[31m"
LONG = "long " * LONGEST


def text_of(row: int) -> str:
    """Give the text of a row: two words of the table, and what must not be obeyed."""
    return f"{WORDS[row % 30]} {WORDS[row // 30]} {LONG if row == 7 else BAD}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Embed 300 lines of JSON by a small table of word vectors."""
    x = np.random.default_rng(0).normal(size=(30, 6))
    table = "\n".join(f"{word} {' '.join(map(str, row))}" for word, row in zip(WORDS, x, strict=True))
    (tmp_path / "table.txt").write_text(f"{table}\n")
    (tmp_path / "corpus").mkdir()
    lines = [{"text": text_of(row), "title": f"t{row}", "id": row} for row in range(300)]
    (tmp_path / "corpus/a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"kind": "jsonl", "path": str(tmp_path / "corpus"), "column": "text", "keep": ["id"]}
    fields = {"encoder__family": "static", "resources__unit_rows": 64}
    embed(tiny_spec(str(tmp_path / "table.txt"), source, tmp_path / "run", **fields))
    return tmp_path / "run"


def test_texts_of_the_rows_that_are_found(run: Path, tmp_path: Path) -> None:
    """In Python, on the terminal, in a file, on a page: the text of the row, and of no other."""
    near = neighbors(str(run), np.array([5, 7]), 8)
    lines = near.table()
    assert lines.column_names == ["query", "rank", "score", "row", "_source", "_row", "text", "id"]
    assert lines["id"].to_pylist() == near.ids.ravel().tolist()
    expected = [text_of(row) for row in lines["id"].to_pylist()]
    assert [text[:9] for text in lines["text"].to_pylist()] == [text[:9] for text in expected]
    titles = near.table(["title", "id"])
    assert titles["title"].to_pylist() == [f"t{row}" for row in titles["id"].to_pylist()]
    page, file = tmp_path / "near.html", tmp_path / "near.jsonl"
    words = ["neighbors", run, "--rows", "5,37", "-k", 3, "--progress", "none"]
    code, said = invoke(*words, "--html", page, "--output", file)
    assert code == 0, said
    assert "\\x1b[31m" in said
    assert "\x1b[31m" not in said
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["text"] for line in found] == [text_of(line["id"]) for line in found]
    html = page.read_text()
    assert html.count("&lt;script&gt;document.title=&#39;run&#39;&lt;/script&gt; \\x1b[31m") == len(found)
    assert not re.search(r"<script|https?://|\x1b", html)


def test_long_texts_are_cut(run: Path) -> None:
    """A text longer than what is shown ends in dots; its table cell is a line."""
    row = neighbors(str(run), np.array([37]), 300).table(["text", "id"]).to_pylist()
    cut = next(line["text"] for line in row if line["id"] == 7)
    assert (len(cut), cut[-3:], cut[:100]) == (LONGEST, "...", text_of(7)[:100])


def test_a_source_that_changed_is_said_once(run: Path, tmp_path: Path) -> None:
    """Nothing of another row is shown, and what was kept still is."""
    file, words = tmp_path / "corpus/a.jsonl", ["neighbors", run, "--rows", "5", "--progress", "none"]
    content, then = file.read_bytes(), file.stat()
    file.write_bytes(content.replace(b"w05", b"w06"))
    code, said = invoke(*words)
    assert code == 0
    assert said.count("10 of 10 rows are shown without what the source has: a.jsonl: rewritten") == 1
    assert "w06" not in said
    assert "w05" not in said
    file.unlink()
    code, said = invoke(*words)
    assert (code, "a.jsonl: removed" in said) == (0, True), said
    code, said = invoke(*words, "--show", "title")
    assert (code, "no column 'title' was kept; there are id" in said) == (2, True), said
    assert invoke(*words, "--show", "id")[0] == 0
    file.write_bytes(content)
    os.utime(file, ns=(then.st_mtime_ns, then.st_mtime_ns))
    assert "w05" in invoke(*words)[1]


def test_thumbnails(tmp_path: Path) -> None:
    """Images are small JPEGs on the page; one that can't be decoded, or is gone, says so."""
    file = io.BytesIO()
    Image.new("RGB", (1200, 600), (200, 30, 30)).save(file, "PNG")
    pictures = [thumbnail(content) for content in (file.getvalue(), b"no image", None)]
    table = pa.table({"row": [4, 5, 6], "_source": ["<a>.png", "b", "c"], "_row": [0, 0, 0]})
    near = Neighbors(np.array([[4, 5, 6]]), np.array([[0.9, 0.8, 0.7]]), 9, 0, 1.0, None, "out")
    write_answer(
        str(tmp_path / "page.html"),
        "out",
        Answer(["query.png"], Shown(table, pictures=pictures), near, [file.getvalue()]),
    )
    html = (tmp_path / "page.html").read_text()
    assert html.count('<img src="data:image/jpeg;base64,') == 2
    assert html.count("no picture") == 2
    assert "&lt;a&gt;.png:0" in html
    assert len(html) < 20_000


@pytest.mark.parametrize("width", [40, 50, 80, 200])
def test_columns_fit_the_terminal(width: int) -> None:
    """Narrow columns stay whole, wide ones share what is left, and the last ones go first."""
    columns = [("query", 30), ("score", 8), ("row", 60), ("text", 100), ("id", 60), ("url", 60)]
    lines = [["a query", "0.1234", "7", "t" * 500, "12345", "u" * 40], ["", "0.1", "8", "", "1", ""]]
    widths = fit_columns(columns, lines, [4, 5], width)
    assert sum(wide + 3 for wide in widths.values()) + 1 <= width
    assert list(widths) == list(range({40: 4, 50: 5}.get(width, 6)))
    assert [widths[place] for place in (0, 1, 2)] == [7, 6, 3]
    assert widths[3] == {40: 11, 50: 13, 80: 20, 200: 100}[width]


def test_a_text_has_the_room_of_a_narrow_terminal() -> None:
    """The column that one looks for has 30 characters before others have any; what goes is last."""
    columns = [("query", 30), ("score", 8), ("row", 60), ("text", 100), ("id", 60), ("source", 60)]
    lines = [["a query", "0.1234", "7", "t" * 500, "i" * 30, "s" * 40]]
    widths = fit_columns(columns, lines, [4, 5], 80, 3)
    assert list(widths) == [0, 1, 2, 3, 4]
    assert widths[3] >= 30
    assert sum(each + 3 for each in widths.values()) + 1 <= 80
