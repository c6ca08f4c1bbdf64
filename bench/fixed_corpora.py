"""Small seeded corpora with what is bad in real ones: nulls, broken bytes, duplicates."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fixed_models import EDGE_DIM, FEATURES, WORDS
from PIL import Image

ROWS = 240
_CHANGED = 1_700_000_000
"""Seconds since 1970 at which all files were changed last."""
_ODD = [
    "",
    "   spaces   around   ",
    "ÉCOLE, Straße",
    "emoji 😀 inside",
    "中文文本",
    "[CLS] the [SEP] fox",
    "zzqx qqq",
]

BROKEN_LINES = (
    b"{not json",
    b'{"text": null, "id": 1}',
    b'{"text": 7, "id": 2}',
    b'{"text": "caf\xe9", "id": 3}',
    b"[1, 2]",
    b'{"id": 4}',
    b'{"text": "", "id": 5}',
    b"",
    b'{"text": "half \\ud800", "id": 6}',
    b'{"text": "kept is wrong", "id": "seven"}',
)
"""Records of JSON lines that are none, or hold something else than a text and a number."""


def texts(rows: int = ROWS, seed: int = 0) -> list[str]:
    """Draw texts of up to 90 words on three topics in turn; some odd, each twelfth twice."""
    rng = np.random.default_rng(seed)
    topics = [WORDS[:12] + WORDS[12 + topic :: 3] for topic in range(3)]
    drawn = [" ".join(rng.choice(topics[row % 3], rng.integers(1, 90))) + "." for row in range(rows)]
    drawn[20 : 20 + len(_ODD)] = _ODD
    for row in range(0, rows - 6, 12):
        drawn[row + 6] = drawn[row]
    return drawn


def _dated(folder: Path) -> str:
    """Give all files one time of change, which a graph's fingerprint names, and give the folder."""
    for file in folder.rglob("*"):
        os.utime(file, (_CHANGED, _CHANGED))
    return str(folder)


def _shares(rows: int, files: int) -> list[Sequence[int]]:
    return [part.tolist() for part in np.array_split(np.arange(rows), files)]


def write_parquet(folder: Path) -> str:
    """Write texts as Parquet, with nulls and bytes that are not UTF-8, and a file of no rows."""
    contents: list[bytes | None] = [text.encode() for text in texts()]
    contents[3], contents[100], contents[101] = None, b"caf\xe9", None
    column = pa.array(contents, pa.binary()).view(pa.string())
    numbers = np.arange(ROWS)
    topics = pa.array([f"topic {number % 3}" for number in numbers.tolist()])
    table = pa.table(
        {"id": numbers, "topic": topics, "text": column, "half": pa.array(numbers / 2, mask=numbers % 5 == 0)}
    )
    for part, rows in enumerate(_shares(ROWS, 3)):
        place = folder / f"part={part}"
        place.mkdir(parents=True)
        pq.write_table(table.take(pa.array(rows)), place / "a b.parquet", row_group_size=37)
    pq.write_table(table.slice(0, 0), folder / "none.parquet")
    return str(folder)


def write_lines_of_json(folder: Path) -> str:
    """Write texts as JSON lines with every kind of broken record, plain and compressed."""
    lines = [json.dumps({"text": text, "id": number}).encode() for number, text in enumerate(texts(120, 1))]
    content = b"\n".join([*lines[:10], *BROKEN_LINES, *lines[10:]])
    for language, packing in (("en", None), ("de", "gzip")):
        place = folder / f"lang={language}"
        place.mkdir(parents=True)
        with pa.output_stream(
            str(place / ("a.jsonl.gz" if packing else "a.jsonl")), compression=packing
        ) as stream:
            stream.write(content)
    return str(folder)


def write_csv(folder: Path) -> str:
    """Write titles and texts as CSV, with records of too many and too few fields."""
    folder.mkdir(parents=True)
    rows = io.StringIO()
    writer = csv.writer(rows)
    writer.writerow(["title", "text", "id"])
    writer.writerows([f"title {number}", text, number] for number, text in enumerate(texts(60, 2)))
    bad = b"too,many,fields,here\r\nfew\r\ncaf\xe9,x,8\r\nno text,,9\r\nkept is wrong,x,y\r\n"
    (folder / "a.csv").write_bytes(rows.getvalue().encode() + bad)
    return str(folder)


def write_lines(folder: Path) -> str:
    """Write plain lines, one of which is not UTF-8."""
    folder.mkdir(parents=True)
    lines = [" ".join(text.split()).encode() for text in texts(60, 3)]
    (folder / "a.txt").write_bytes(b"\n".join([*lines[:10], b"caf\xe9", b"", *lines[10:]]))
    return str(folder)


def write_word_lists(folder: Path) -> str:
    """Write lists of words, each with a word to keep; some are null, empty or hold a null."""
    folder.mkdir(parents=True)
    rows: list[dict[str, object]] = [
        {"words": text.split(), "want": (text.split() or ["x"])[0].upper()} for text in texts(40, 4)
    ]
    rows += [{"words": None, "want": "x"}, {"words": ["a", None], "want": "a"}, {"words": [], "want": None}]
    schema = pa.schema([("words", pa.list_(pa.string())), ("want", pa.string())])
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "a.parquet")
    return str(folder)


def write_images(folder: Path) -> str:
    """Write PNG files of several modes and sizes, two equal, and three that are no images."""
    rng = np.random.default_rng(5)
    for number in range(24):
        place = folder / f"part{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        width, height = (int(side) for side in rng.integers(20, 120, 2))
        pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
        image.convert(("RGB", "L", "RGBA", "P")[number % 4]).save(place / f"{number:02d}.png")
    (folder / "part0" / "twice.png").write_bytes((folder / "part0" / "00.png").read_bytes())
    cut = (folder / "part0" / "04.png").read_bytes()[:200]
    for name, content in (("empty", b""), ("page", b"<html>"), ("cut", cut)):
        (folder / "part1" / f"{name}.png").write_bytes(content)
    return str(folder)


def write_graph(folder: Path, nodes: int = 1500, edges: int = 6000) -> dict[str, str]:
    """Write both tables of a graph with a hub, duplicates, loops, lone nodes and a bad feature.

    Returns:
        the fields `nodes` and `edges` of a source.
    """
    rng = np.random.default_rng(6)
    names = pa.array([f"n{(row * 7919) % 100_003}" for row in range(nodes)])
    src, dst = ((nodes * 0.9 * rng.power(power, edges)).astype(np.int64) for power in (0.4, 0.5))
    dst[:600] = 7
    src[-50:] = dst[-50:]
    features = rng.standard_normal((nodes, FEATURES)).astype(np.float32)
    features[40, 3] = np.nan
    x = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), FEATURES)
    of_edges = pa.FixedSizeListArray.from_arrays(
        pa.array(rng.standard_normal(edges * EDGE_DIM).astype(np.float32)), EDGE_DIM
    )
    tables = {
        "nodes": pa.table({"id": names, "x": x, "half": np.arange(nodes) % 2}),
        "edges": pa.table(
            {"src": names.take(pa.array(src)), "dst": names.take(pa.array(dst)), "features": of_edges}
        ),
    }
    for name, table in tables.items():
        (folder / name).mkdir(parents=True)
        for part, rows in enumerate(_shares(len(table), 3)):
            pq.write_table(table.take(pa.array(rows)), folder / name / f"{part}.parquet")
    return {name: _dated(folder / name) for name in tables}


def write_edges(folder: Path, ids: Sequence[int]) -> str:
    """Write weighted edges among rows that have these ids."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(8)
    src, dst = (rng.choice(np.array(ids), 900) for _ in range(2))
    pq.write_table(
        pa.table({"src": src, "dst": dst, "weight": rng.uniform(0.2, 2, 900)}), folder / "a.parquet"
    )
    return _dated(folder)
