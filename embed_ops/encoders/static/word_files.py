"""Files of word vectors.

GloVe's text, word2vec's text and binary form, gzipped or not, and arrays beside their words.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from embed_ops.errors import ModelError

Array = npt.NDArray[np.float32]

BESIDE = ("vocab.txt", "vocab.json", "*index.parquet", "*vocab*.parquet")
"""Where the words of an array are, in its folder."""
_SAMPLE_BYTES = 4096
_GZIP, _PACKED_TIMES = b"\x1f\x8b", 1032
"""How gzip begins, and the most bytes that it makes of one."""
_DIGITS = 18
"""Digits of a count that is worth reading."""


def words_beside(file: Path) -> Path:
    """Find the words of an array.

    `vocab.txt`, `vocab.json`, or a Parquet file that maps words to rows, in its folder.

    Raises:
        ModelError: there are none.
    """
    paths = [path for pattern in BESIDE for path in sorted(file.parent.glob(pattern))]
    if not paths:
        raise ModelError(
            f"{file}: no words beside the array ({', '.join(BESIDE)}); put vocab.txt there, one word a "
            "line in its order"
        )
    return paths[0]


@contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    with file.open("rb") as raw:
        packed = raw.read(2) == _GZIP
    with gzip.open(file, "rb") if packed else file.open("rb") as opened:
        yield cast("IO[bytes]", opened)


def read_file(file: Path) -> tuple[list[str], Array]:
    """Read a table of GloVe's or word2vec's text, or of word2vec's binary form.

    The words, and (words, dim) float32.

    Of a word that stands twice the first vector counts.

    Raises:
        ModelError: it is neither, or broken; names the line or the word.
    """
    try:
        with _open(file) as opened:
            first = opened.readline()
            head = first.split()
            counted = len(head) == 2 and all(part.isdigit() for part in head)
            start = opened.tell() if counted else 0
            sample = opened.read(_SAMPLE_BYTES)
            opened.seek(start)
            if not first.strip():
                raise ModelError(
                    f"{file}: the file is empty, or its first line is; give a table of word vectors"
                )
            if not counted:
                return _read_text(file, opened, None, len(first.rstrip().split(b" ")) - 1, 1)
            text = _is_text(sample)
            rows, dim = _promised(file, head, 2 if text else 4)
            return _read_text(file, opened, rows, dim, 2) if text else _read_binary(file, opened, rows, dim)
    except (OSError, EOFError, zlib.error) as error:
        raise ModelError(f"{file}: can't be read ({error}); fetch it again") from error


def _promised(file: Path, head: list[bytes], number_bytes: int) -> tuple[int, int]:
    """Read the first line's words and dimensions: no more than the file can hold is believed.

    Raises:
        ModelError: there are none, or too many.
    """
    with file.open("rb") as raw:
        packed = raw.read(2) == _GZIP
    most = file.stat().st_size * (_PACKED_TIMES if packed else 1)
    told = [int(part) if len(part) <= _DIGITS else most + 1 for part in head]
    rows, dim = told
    if rows < 1 or dim < 1 or number_bytes * rows * dim > most:
        words, numbers = (part[: _DIGITS + 1].decode() for part in head)
        raise ModelError(
            f"{file}: line 1 says {words} words of {numbers} dimensions, which {file.stat().st_size} bytes "
            "can't hold; fetch it again, or give a table of word vectors"
        )
    return rows, dim


def _is_text(sample: bytes) -> bool:
    """Tell lines of numbers from raw floats.

    Behind its first word a line of text has nothing but digits.
    """
    numbers = sample.partition(b"\n")[0].split(b" ")[1:]
    return bool(numbers) and set(b"".join(numbers[:4])) <= set(b"0123456789+-.eE")


def _read_text(
    file: Path, opened: IO[bytes], rows: int | None, dim: int, number: int
) -> tuple[list[str], Array]:
    words: dict[str, int] = {}
    parts: list[Array] = []
    for line, content in enumerate(opened, number):
        # Words may hold spaces, so the numbers are counted from the end.
        word, *numbers = content.rstrip().rsplit(b" ", dim)
        try:
            vector = np.array(numbers, np.float32)
            name = word.decode("utf-8")
        except ValueError as error:
            raise ModelError(
                f"{file}: line {line}: {content[:60]!r} is no word with {dim} numbers; take it out or mend it"
            ) from error
        if len(vector) != dim or dim < 2 or not name:
            raise ModelError(
                f"{file}: line {line}: {content[:60]!r} has {len(vector)} numbers, {dim} were expected; "
                "take it out or mend it"
            )
        if name not in words:
            words[name] = len(parts)
            parts.append(vector)
    lines = line - number + 1 if parts else 0
    if not parts or (rows is not None and lines != rows):
        raise ModelError(f"{file}: line 1 says {rows} words, and {lines} are there; fetch it again")
    return list(words), np.stack(parts)


def _read_binary(file: Path, opened: IO[bytes], rows: int, dim: int) -> tuple[list[str], Array]:
    words: dict[str, int] = {}
    vectors = np.empty((rows, dim), np.float32)
    for number in range(rows):
        word = bytearray()
        while (sign := opened.read(1)) not in (b" ", b""):
            # Some writers end a vector with a line break, some do not.
            if sign != b"\n" or word:
                word += sign
        content = opened.read(4 * dim)
        if not sign or len(content) < 4 * dim:
            raise ModelError(
                f"{file}: ends in word {number + 1} of the {rows} that line 1 says; fetch it again"
            )
        # Old tables cut words in the middle of a character.
        name = word.decode("utf-8", errors="replace")
        if name not in words:
            vectors[len(words)] = np.frombuffer(content, "<f4")
            words[name] = len(words)
    return list(words), vectors[: len(words)]


def read_array(file: Path, beside: Path) -> tuple[list[str], Array]:
    """Read an array and its words.

    Raises:
        ModelError: the array is no (words, dim) of floats, or the words are not as many, or one
            stands twice.
    """
    try:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
        words = _words(beside)
    except (ValueError, OSError, EOFError, KeyError, IndexError) as error:
        raise ModelError(f"{file} with {beside.name}: can't be read ({error}); fetch them again") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or len(vectors) < 1:
        raise ModelError(
            f"{file}: holds {vectors.dtype} of shape {vectors.shape}, and floats of (words, dim) are needed"
        )
    if len(words) != len(vectors):
        raise ModelError(
            f"{file}: {len(vectors)} vectors, and {len(words)} words in {beside.name}; give those that "
            "belong together"
        )
    if len(set(words)) < len(words):
        twice = Counter(words).most_common(1)[0][0]
        raise ModelError(f"{beside}: {twice!r} stands twice; take one out, and its vector")
    return words, np.ascontiguousarray(vectors, np.float32)


def _words(beside: Path) -> list[str]:
    """Read words in the order of the rows.

    Lines, a JSON list or object of word and row, or a Parquet table of both columns.
    """
    if beside.suffix == ".txt":
        return beside.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if beside.suffix == ".json":
        words = json.loads(beside.read_text(encoding="utf-8"))
        return [
            str(word) for word in (sorted(words, key=words.__getitem__) if isinstance(words, dict) else words)
        ]
    table = pq.read_table(beside)
    texts = [
        name
        for name in table.schema.names
        if str(table.schema.field(name).type) in ("string", "large_string")
    ]
    numbers = [
        name for name in table.schema.names if str(table.schema.field(name).type).startswith(("int", "uint"))
    ]
    column = [str(word) for word in table.column(texts[0]).to_pylist()]
    if not numbers:
        return column
    order = np.argsort(table.column(numbers[0]).to_numpy(), kind="stable")
    return [column[place] for place in order]
