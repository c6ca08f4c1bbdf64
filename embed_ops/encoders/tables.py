"""Tables of static word vectors: read once on a node, kept as one array in its cache, and mapped into memory by every worker.

    static/KEY/vectors.npy      (words, dim) float32
    static/KEY/tokenizer.json   the words, as a vocabulary of the tokenizers library

KEY is of the address, size and time of change of the file. Formats are told by looking: GloVe's text, word2vec's text (fastText's `.vec`
too) and binary form, each as it is or gzipped, and an array (`.npy`) beside its words.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from embed_ops.encoders.fetching import once_per_node
from embed_ops.encoders.prefix import cache_folder
from embed_ops.errors import ModelError, StorageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = npt.NDArray[np.float32]

UNKNOWN = "\x00unknown"
"""Stands for every word that the table does not have; behind the last one."""
BESIDE = ("vocab.txt", "vocab.json", "*index.parquet", "*vocab*.parquet")
"""Where the words of an array are, in its folder."""
_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class Table:
    """Vectors of words on this node: `folder` in the cache, and the file that they are of."""

    folder: Path
    file: Path

    def vectors(self) -> Array:
        """Map the vectors into memory: (words, dim) float32. Changes are a process's own, so that torch takes them."""
        return cast(Array, np.load(self.folder / "vectors.npy", mmap_mode="c"))

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer: words and signs of a text to ids, that of an unknown word being the number of words."""
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))


def open_table(model: str, *, lowercase: bool | None) -> Table:
    """Find a table in this node's cache, or read it into it.

    Args:
        model: file of the table.
        lowercase: lower texts first; None: where no word of the table has a capital letter.

    Raises:
        ModelError: no such file, or it is no table of word vectors; names the file and the line.
        StorageError: the cache can't be written.
    """
    file = Path(model.removeprefix("file://")).expanduser()
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "nothing"
        raise ModelError(f"encoder.model: {model} is no file of word vectors (found {kind} there); give the .txt, .vec, .bin or .npy file")
    told = file.stat()
    words = words_beside(file) if file.suffix == ".npy" else None
    of_words = (words.stat().st_size, words.stat().st_mtime_ns) if words else None
    key = hashlib.sha256(json.dumps([str(file.resolve()), told.st_size, told.st_mtime_ns, of_words, lowercase]).encode()).hexdigest()
    table = Table(cache_folder() / "static" / key[:32], file)

    def find() -> Table | None:
        return table if (table.folder / "tokenizer.json").is_file() else None

    return once_per_node(f"static {table.folder}", find, lambda: _convert(table, words, lowercase))


def words_beside(file: Path) -> Path:
    """Find the words of an array: `vocab.txt`, `vocab.json`, or a Parquet file that maps words to rows, in its folder.

    Raises:
        ModelError: there are none.
    """
    found = [path for pattern in BESIDE for path in sorted(file.parent.glob(pattern))]
    if not found:
        raise ModelError(f"{file}: no words beside the array ({', '.join(BESIDE)}); put vocab.txt there, one word a line in its order")
    return found[0]


def _convert(table: Table, beside: Path | None, lowercase: bool | None) -> Table:
    words, vectors = read_array(table.file, beside) if beside else read_file(table.file)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ModelError(f"{table.file}: the vector of {words[bad[0]]!r}, word {bad[0]}, is not finite; take the word out")
    lower = lowercase if lowercase is not None else not any(word != word.lower() for word in words)
    scratch = table.folder.with_name(f".{table.folder.name}.{uuid.uuid4().hex}")
    try:
        scratch.mkdir(parents=True)
        np.save(scratch / "vectors.npy", vectors)
        tokenizer_of(words, lower=lower).save(str(scratch / "tokenizer.json"), pretty=False)
        shutil.rmtree(table.folder, ignore_errors=True)
        scratch.rename(table.folder)
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise StorageError(
            f"{table.folder}: can't be written ({error}); mend it or set EMBED_OPS_CACHE, and run the same command again"
        ) from error
    return table


def tokenizer_of(words: list[str], *, lower: bool) -> Tokenizer:
    """Make the tokenizer of a vocabulary: runs of letters and digits are words, every other sign one of its own.

    A run of signs is looked up sign by sign; so `don't` is `don`, `'`, `t`.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    made = Tokenizer(models.WordLevel({**{word: place for place, word in enumerate(words)}, UNKNOWN: len(words)}, unk_token=UNKNOWN))
    steps: list[Any] = [normalizers.NFC(), *([normalizers.Lowercase()] if lower else [])]
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    return made


@contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    with file.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with gzip.open(file, "rb") if packed else file.open("rb") as opened:
        yield cast("IO[bytes]", opened)


def read_file(file: Path) -> tuple[list[str], Array]:
    """Read a table of GloVe's or word2vec's text, or of word2vec's binary form: the words, and (words, dim) float32.

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
                raise ModelError(f"{file}: the file is empty, or its first line is; give a table of word vectors")
            if not counted:
                return _read_text(file, opened, None, len(first.rstrip().split(b" ")) - 1, 1)
            rows, dim = int(head[0]), int(head[1])
            if rows < 1 or dim < 1:
                raise ModelError(f"{file}: line 1 says {rows} words of {dim} dimensions; give a table of word vectors")
            text = _is_text(sample)
            return _read_text(file, opened, rows, dim, 2) if text else _read_binary(file, opened, rows, dim)
    except (OSError, EOFError) as error:
        raise ModelError(f"{file}: can't be read ({error}); fetch it again") from error


def _is_text(sample: bytes) -> bool:
    """Tell lines of numbers from raw floats: behind its first word a line of text has nothing but digits."""
    numbers = sample.partition(b"\n")[0].split(b" ")[1:]
    return bool(numbers) and set(b"".join(numbers[:4])) <= set(b"0123456789+-.eE")


def _read_text(file: Path, opened: IO[bytes], rows: int | None, dim: int, number: int) -> tuple[list[str], Array]:
    words: dict[str, int] = {}
    parts: list[Array] = []
    for line, content in enumerate(opened, number):
        # Words may hold spaces, so the numbers are counted from the end.
        word, *numbers = content.rstrip().rsplit(b" ", dim)
        try:
            vector = np.array(numbers, np.float32)
            name = word.decode("utf-8")
        except ValueError as error:
            raise ModelError(f"{file}: line {line}: {content[:60]!r} is no word with {dim} numbers; take it out or mend it") from error
        if len(vector) != dim or dim < 2 or not name:
            raise ModelError(
                f"{file}: line {line}: {content[:60]!r} has {len(vector)} numbers, {dim} were expected; take it out or mend it"
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
            raise ModelError(f"{file}: ends in word {number + 1} of the {rows} that line 1 says; fetch it again")
        # Old tables cut words in the middle of a character.
        name = word.decode("utf-8", errors="replace")
        if name not in words:
            vectors[len(words)] = np.frombuffer(content, "<f4")
            words[name] = len(words)
    return list(words), vectors[: len(words)]


def read_array(file: Path, beside: Path) -> tuple[list[str], Array]:
    """Read an array and its words.

    Raises:
        ModelError: the array is no (words, dim) of floats, or the words are not as many, or one stands twice.
    """
    try:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
        words = _words(beside)
    except (ValueError, OSError, EOFError, KeyError, IndexError) as error:
        raise ModelError(f"{file} with {beside.name}: can't be read ({error}); fetch them again") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f" or len(vectors) < 1:
        raise ModelError(f"{file}: holds {vectors.dtype} of shape {vectors.shape}, and floats of (words, dim) are needed")
    if len(words) != len(vectors):
        raise ModelError(f"{file}: {len(vectors)} vectors, and {len(words)} words in {beside.name}; give those that belong together")
    if len(set(words)) < len(words):
        twice = Counter(words).most_common(1)[0][0]
        raise ModelError(f"{beside}: {twice!r} stands twice; take one out, and its vector")
    return words, np.ascontiguousarray(vectors, np.float32)


def _words(beside: Path) -> list[str]:
    """Read words in the order of the rows: lines, a JSON list or object of word and row, or a Parquet table of both columns."""
    if beside.suffix == ".txt":
        return beside.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if beside.suffix == ".json":
        found = json.loads(beside.read_text(encoding="utf-8"))
        return [str(word) for word in (sorted(found, key=found.__getitem__) if isinstance(found, dict) else found)]
    table = pq.read_table(beside)
    texts = [name for name in table.schema.names if str(table.schema.field(name).type) in ("string", "large_string")]
    numbers = [name for name in table.schema.names if str(table.schema.field(name).type).startswith(("int", "uint"))]
    column = [str(word) for word in table.column(texts[0]).to_pylist()]
    if not numbers:
        return column
    order = np.argsort(table.column(numbers[0]).to_numpy(), kind="stable")
    return [column[place] for place in order]
