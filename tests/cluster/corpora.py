"""Corpora for the laws: real docstrings, and every kind of bad row in every format and compression."""

from __future__ import annotations

import ast
import csv
import io
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COMPRESSIONS = {"": None, ".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}


def docstrings(count: int) -> list[str]:
    """Gather docstrings of the standard library, in a fixed order."""
    return [text for text, _ in zip(_docstrings(), range(count), strict=False)]


def _docstrings() -> Iterator[str]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.glob("*.py")) + sorted((root / "asyncio").glob("*.py")) + sorted((root / "email").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield text


def write_parquet(folder: Path, texts: list[str], files: int) -> None:
    """Write texts and ids as Parquet, an equal part a file, each below a hive folder of its own."""
    share = -(-len(texts) // files)
    for part in range(files):
        place = folder / f"part={part}"
        place.mkdir(parents=True)
        rows = texts[part * share : (part + 1) * share]
        table = pa.table({"text": rows, "id": range(part * share, part * share + len(rows))})
        pq.write_table(table, place / "data.parquet", row_group_size=100)


def pack(content: bytes, packed: str | None) -> bytes:
    """Compress as pyarrow does."""
    if packed is None:
        return content
    sink = pa.BufferOutputStream()
    stream = pa.CompressedOutputStream(sink, packed)
    stream.write(content)
    stream.close()
    packed_content: bytes = sink.getvalue().to_pybytes()
    return packed_content


def _json_lines(texts: list[str]) -> bytes:
    lines = [json.dumps({"text": text, "id": number}).encode() for number, text in enumerate(texts)]
    bad = [b"{not json", b'{"text": null, "id": 1}', b'{"text": 7, "id": 2}', b'{"text": "caf\xe9", "id": 3}', b"[1, 2]", b'{"id": 4}']
    bad += [b'{"text": "", "id": 5}', b"", b'{"text": "half \\ud800", "id": 6}', b'{"text": "kept is wrong", "id": "seven"}']
    return b"\n".join([*lines[:10], *bad, *lines[10:]])


def _csv(texts: list[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["text", "id"])
    writer.writerows([value, number] for number, value in enumerate(texts))
    bad = b"too,many,fields\r\nfew\r\ncaf\xe9,8\r\n,9\r\n\r\nkept is wrong,x\r\n"
    return text.getvalue().encode() + bad


def _lines(texts: list[str]) -> bytes:
    lines = [" ".join(text.split()).encode() for text in texts]
    return b"\n".join([*lines[:10], b"", b"caf\xe9", b"   ", *lines[10:]])


def write_bad(folder: Path, kind: str, texts: list[str]) -> None:
    """Write a corpus of one kind with every bad row it can have, in every compression, small files, an empty and a cut one."""
    folder.mkdir(parents=True)
    if kind == "parquet":
        _write_bad_parquet(folder, texts)
        return
    content = {"jsonl": _json_lines, "csv": _csv, "text": _lines}[kind](texts)
    ending = {"jsonl": ".jsonl", "csv": ".csv", "text": ".txt"}[kind]
    for packing, packed in COMPRESSIONS.items():
        for place in ("lang=en", "lang=de"):
            (folder / place).mkdir(exist_ok=True)
            (folder / place / f"a{ending}{packing}").write_bytes(pack(content, packed))
        if packed is not None:
            (folder / f"cut{ending}{packing}").write_bytes(pack(content * 3, packed)[:-40])
    (folder / f"empty{ending}").write_bytes(b"")


def _write_bad_parquet(folder: Path, texts: list[str]) -> None:
    values: list[bytes | None] = [text.encode() for text in texts]
    values[5:5] = [None, b"caf\xe9", b"", None]
    nested = pa.StructArray.from_arrays([pa.array(values, pa.binary()).view(pa.string())], ["text"])
    table = pa.table({"doc": nested, "id": range(len(values)), "kind": pa.array(["a", None] * len(values))[: len(values)]})
    for place in ("lang=en", "lang=de/year=2024"):
        (folder / place).mkdir(parents=True)
        pq.write_table(table, folder / place / "a b%c.parquet", row_group_size=37)
        pq.write_table(table.slice(0, 1), folder / place / "one.parquet")
        pq.write_table(table.slice(0, 0), folder / place / "none.parquet")
    whole = pa.BufferOutputStream()
    pq.write_table(table, whole, row_group_size=50, compression="zstd", use_dictionary=False)
    content = bytearray(whole.getvalue().to_pybytes())
    (folder / "cut.parquet").write_bytes(bytes(content[:-40]))
    start = pq.read_metadata(pa.BufferReader(bytes(content))).row_group(2).column(0).data_page_offset
    content[start + 40 : start + 80] = bytes(40)
    (folder / "page.parquet").write_bytes(bytes(content))
