"""Tables of static word vectors.

Read once on a node, kept as one array in its cache, and mapped into memory by every worker.

    static/KEY/vectors.npy      (words, dim) float32
    static/KEY/tokenizer.json   the words, as a vocabulary of the tokenizers library, or the model's
                                own tokenizer
    static/KEY/facts.json       what else decides a mean

KEY is of the address, size and time of change of the files. Formats are told by looking: GloVe's
text, word2vec's text (fastText's `.vec` too) and binary form, each as it is or gzipped, and an
array (`.npy`) beside its words; folders of models are read by `matrices.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from embed_ops.encoders.hub.cache import cache_folder
from embed_ops.encoders.hub.fetching import once_per_node
from embed_ops.encoders.hub.files import sha256_of
from embed_ops.encoders.static.matrices import Matrix, open_matrix
from embed_ops.encoders.static.word_files import Array, read_array, read_file, words_beside
from embed_ops.errors import ModelError, StorageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SUFFIXES = (".txt", ".vec", ".bin", ".gz", ".npy")
"""What files of word vectors end in, where there is none to look into."""
UNKNOWN = "\x00unknown"
"""Stands for every word that the table does not have; behind the last one."""


@dataclass(frozen=True)
class TableFacts:
    """What decides a mean beside vectors and tokenizer.

    Attributes:
        kind: "word table", or that of a `Matrix`.
        unknown: id that the tokenizer gives what it does not know, None where it knows everything.
        keeps_unknown: the unknown token has a vector that counts.
        normalize: the model's vectors have unit length.
    """

    kind: str
    unknown: int | None
    keeps_unknown: bool = False
    normalize: bool = False


@dataclass(frozen=True)
class Table:
    """Vectors of words on this node.

    `folder` in the cache, and the file or the matrix that they are of.
    """

    folder: Path
    origin: Path | Matrix

    def vectors(self) -> Array:
        """Map the vectors into memory: (words, dim) float32.

        Changes are a process's own, so that torch takes them.
        """
        return cast(Array, np.load(self.folder / "vectors.npy", mmap_mode="c"))

    def tokenizer(self) -> Tokenizer:
        """Load the tokenizer: words and signs of a text to ids.

        That of an unknown word is the number of words.
        """
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    def facts(self) -> TableFacts:
        """Read what else decides a mean."""
        return TableFacts(**json.loads((self.folder / "facts.json").read_text(encoding="utf-8")))

    def fingerprint(self) -> dict[str, str]:
        """Hash the files that decide the vectors: {file: sha256}."""
        if isinstance(self.origin, Matrix):
            return self.origin.fingerprint()
        beside = (words_beside(self.origin),) if self.origin.suffix == ".npy" else ()
        return {path.name: sha256_of(path) for path in (self.origin, *beside)}


def open_table(
    model: str, *, lowercase: bool | None, revision: str | None = None, trust_remote_code: bool = False
) -> Table:
    """Find a table in this node's cache, or read it into it.

    Args:
        model: file of the table, folder of an array and its words, or folder, hub name or prefix of
            a model with a matrix.
        lowercase: lower texts first; None: where no word of the table has a capital letter. The
            tokenizer of a model knows by itself.
        revision: of a model on a hub or an object store.
        trust_remote_code: let its tokenizer run code of its own.

    Raises:
        ModelError: no such file, or it is no table of word vectors; names the file and the line.
        StorageError: the cache can't be written.
    """
    file = Path(model.removeprefix("file://")).expanduser()
    if file.is_dir() and len(arrays := sorted(file.glob("*.npy"))) == 1:
        file = arrays[0]
    if not file.exists() and file.suffix in SUFFIXES:
        raise ModelError(
            f"encoder.model: {model} is no file of word vectors (found nothing there); correct the path"
        )
    matrix = None if file.is_file() else open_matrix(model, revision, trust_remote_code)
    if matrix is not None and lowercase is not None:
        raise ModelError(
            f"{model}: encoder.lowercase is for tables of words, and this model's tokenizer knows by "
            "itself; leave it out"
        )
    beside = words_beside(file) if matrix is None and file.suffix == ".npy" else None
    files = (
        [file, *([beside] if beside else [])]
        if matrix is None
        else [matrix.file, *sorted(matrix.path.glob("*.json"))]
    )
    stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.sha256(
        json.dumps([stamps, lowercase, None if matrix is None else matrix.name]).encode()
    ).hexdigest()
    table = Table(cache_folder() / "static" / key[:32], file if matrix is None else matrix)

    def find() -> Table | None:
        return table if (table.folder / "facts.json").is_file() else None

    def convert() -> Table:
        if matrix is not None:
            return _keep(table, partial(_write_matrix, matrix, trust_remote_code))
        return _keep(table, partial(_write_words, file, beside, lowercase))

    return once_per_node(f"static {table.folder}", find, convert)


def _write_words(file: Path, beside: Path | None, lowercase: bool | None, folder: Path) -> TableFacts:
    words, vectors = read_array(file, beside) if beside else read_file(file)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise ModelError(
            f"{file}: the vector of {words[bad[0]]!r}, word {bad[0]}, is not finite; take the word out"
        )
    lower = lowercase if lowercase is not None else not any(word != word.lower() for word in words)
    np.save(folder / "vectors.npy", vectors)
    tokenizer_of(words, lower=lower).save(str(folder / "tokenizer.json"), pretty=False)
    return TableFacts("word table", len(words))


def _write_matrix(matrix: Matrix, trust_remote_code: bool, folder: Path) -> TableFacts:
    tokenizer, unknown = matrix.tokenizer(trust_remote_code)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    rows = 0
    with (folder / "vectors.npy").open("wb") as file:
        for block in matrix.blocks():
            if rows == 0:
                _write_header(file, 0, block.shape[1])
            np.ascontiguousarray(block, "<f4").tofile(file)
            rows += len(block)
        file.seek(0)
        _write_header(file, rows, block.shape[1])
    return TableFacts(matrix.kind, unknown, matrix.keeps_unknown, matrix.normalize)


def _write_header(file: IO[bytes], rows: int, dim: int) -> None:
    # numpy leaves room for the rows to grow, so the header can be written again once they are
    # known.
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)})


def _keep(table: Table, write: Callable[[Path], TableFacts]) -> Table:
    """Write a table to a temporary folder, and rename it once it is whole."""
    scratch = table.folder.with_name(f".{table.folder.name}.{uuid.uuid4().hex}")
    try:
        scratch.mkdir(parents=True)
        facts = write(scratch)
        (scratch / "facts.json").write_text(json.dumps(asdict(facts)), encoding="utf-8")
        shutil.rmtree(table.folder, ignore_errors=True)
        scratch.rename(table.folder)
    except ModelError:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise StorageError(
            f"{table.folder}: can't be written ({error}); mend it or set EMBED_OPS_CACHE, and run the "
            "same command again"
        ) from error
    return table


def tokenizer_of(words: list[str], *, lower: bool) -> Tokenizer:
    """Make the tokenizer of a vocabulary.

    Runs of letters and digits are words, every other sign one of its own.

    A run of signs is looked up sign by sign; so `don't` is `don`, `'`, `t`.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    made = Tokenizer(
        models.WordLevel(
            {**{word: place for place, word in enumerate(words)}, UNKNOWN: len(words)}, unk_token=UNKNOWN
        )
    )
    steps: list[Any] = [normalizers.NFC(), *([normalizers.Lowercase()] if lower else [])]
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    return made
