"""Matrices of vectors with a tokenizer of their own.

Model2vec, sentence-transformers' StaticEmbedding, input embeddings of transformers.

    modules.json begins with StaticEmbedding   its tokenizer, its Normalize
    model.safetensors has `embeddings`  model2vec: `mapping` and `weights` are folded into the rows,
                                        `normalize` of config.json
    any other folder with config.json   the input embeddings of a transformers model, and its
                                        tokenizer

No model is run, and no other weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.hub import contents
from embed_ops.encoders.hub import folder as folders
from embed_ops.encoders.hub.files import read_json
from embed_ops.encoders.text.modules import entries
from embed_ops.encoders.text.plain_bert import read_plain_bert
from embed_ops.encoders.text.tokenizer import load_auto_tokenizer
from embed_ops.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Kind = Literal["model2vec", "StaticEmbedding", "input embeddings"]
_BLOCK_ROWS = 65_536
_FOLDED = "embeddings"
_ENDINGS = (
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_tokens.weight",
    "wte.weight",
    "shared.weight",
)
"""How the input embeddings of transformers models are named."""


@dataclass(frozen=True)
class Matrix:
    """A folder that holds a matrix and its tokenizer.

    Attributes:
        folder: where the model is.
        kind: of the three above; `part`: the folder in it that holds the matrix.
        normalize: the model's vectors have unit length.
        file: with the matrix; `name`: of the tensor.
    """

    folder: folders.Folder
    kind: Kind
    part: str
    normalize: bool
    file: Path
    name: str

    @property
    def path(self) -> Path:
        """The folder of matrix and tokenizer."""
        return self.folder.path / self.part

    @property
    def keeps_unknown(self) -> bool:
        """Whether the unknown token's own vector counts in means, as in sentence-transformers."""
        return self.kind == "StaticEmbedding"

    def fingerprint(self) -> dict[str, str]:
        """Hash what decides rows and vectors, {file: sha256}.

        A hub model's weights stand as `commit`.
        """
        return folders.fingerprint(self.folder, False, [self.part])

    def tokenizer(self, trust_remote_code: bool) -> tuple[Tokenizer, int | None]:
        """Read the tokenizer, which pads nothing.

        And the id of its unknown token, None where it has none.

        Raises:
            ModelError: there is none, or only one of Python code.
        """
        from tokenizers import Tokenizer

        if self.kind == "input embeddings":
            tokenizer: Any = read_plain_bert(self.path)
            unknown = None if tokenizer is None else tokenizer.token_to_id("[UNK]")
            if tokenizer is None:
                whole = load_auto_tokenizer(self.path, trust_remote_code)
                if not whole.is_fast:
                    raise ModelError(
                        f"{self.path}: the slow tokenizer {type(whole).__name__} is not supported here; "
                        "choose another model"
                    )
                tokenizer, unknown = whole.backend_tokenizer, whole.unk_token_id
        else:
            told = read_json(self.path / "tokenizer.json").get("model") or {}
            if not told:
                raise ModelError(
                    f"{self.path / 'tokenizer.json'}: missing, or no tokenizer; fetch the model again"
                )
            tokenizer = Tokenizer.from_file(str(self.path / "tokenizer.json"))
            unknown = (
                told.get("unk_id")
                if told.get("unk_token") is None
                else tokenizer.token_to_id(told["unk_token"])
            )
        tokenizer.no_padding()
        if not self.keeps_unknown:
            tokenizer.no_truncation()
        return cast("Tokenizer", tokenizer), unknown

    def blocks(self) -> Iterator[npt.NDArray[np.float32]]:
        """Stream the rows: (rows, dim) float32.

        Raises:
            ModelError: the file is broken, or a row is not finite.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.file, framework="pt") as opened:
                mapping = opened.get_tensor("mapping").numpy() if self._has(opened, "mapping") else None
                weights = (
                    opened.get_tensor("weights").float().numpy() if self._has(opened, "weights") else None
                )
                rows = opened.get_slice(self.name)
                shape = rows.get_shape()
                if len(shape) != 2 or 0 in shape:
                    raise ModelError(
                        f"{self.file}: {self.name} has the shape {shape}, expected (rows, dim); fetch "
                        "the model again"
                    )
                count = shape[0] if mapping is None else len(mapping)
                if weights is not None and len(weights) != count:
                    raise ModelError(
                        f"{self.file}: {len(weights)} weights for {count} tokens; fetch the model again"
                    )
                whole = None if mapping is None else rows[:].float().numpy()
                for first in range(0, count, _BLOCK_ROWS):
                    part = slice(first, first + _BLOCK_ROWS)
                    block = (
                        rows[part].float().numpy()
                        if whole is None or mapping is None
                        else whole[mapping[part]]
                    )
                    block = block if weights is None else block * weights[part][:, None]
                    odd = np.flatnonzero(~np.isfinite(block).all(axis=1))
                    if len(odd):
                        raise ModelError(
                            f"{self.file}: row {first + int(odd[0])} of {self.name} is not finite; fetch "
                            "the model again"
                        )
                    yield block
        except (SafetensorError, OSError, IndexError) as error:
            raise ModelError(
                f"{self.file}: not a whole safetensors file ({error}); fetch the model again"
            ) from error

    def _has(self, opened: Any, name: str) -> bool:
        return self.name == _FOLDED and name in opened.keys()


def open_matrix(model: str, revision: str | None, trust_remote_code: bool) -> Matrix:
    """Find the matrix of a folder, a hub model or an object store prefix.

    Raises:
        ModelError, StorageError: the model is not there, or holds no such matrix.
    """
    folder = folders.locate_model(model, revision, trust_remote_code)
    listed = entries(folder.path)
    if listed and listed[0][0].rpartition(".")[2] == "StaticEmbedding":
        part, names = listed[0][1].strip("./"), [kind.rpartition(".")[2] for kind, _ in listed[1:]]
        if others := [name for name in names if name != "Normalize"]:
            raise ModelError(
                f"{folder.path}/modules.json: {others[0]} behind StaticEmbedding is not supported; choose "
                "another model"
            )
        if read_json(folder.path / "config_sentence_transformers.json").get("truncate_dim"):
            raise ModelError(
                f"{folder.path}/config_sentence_transformers.json: truncate_dim is not followed here; "
                "take it out, and ask for the dim of an output"
            )
        folders.fetch_weights(folder, [part])
        return Matrix(
            folder,
            "StaticEmbedding",
            part,
            bool(names),
            *_tensor(folder.path / part, ("embedding.weight", _FOLDED)),
        )
    folders.fetch_weights(folder)
    if _FOLDED in _names(folder.path):
        normal = bool(read_json(folder.path / "config.json").get("normalize", False))
        return Matrix(folder, "model2vec", "", normal, *_tensor(folder.path, (_FOLDED,)))
    contents.check_config(folder.path)
    return Matrix(folder, "input embeddings", "", False, *_tensor(folder.path, _ENDINGS))


def _names(folder: Path) -> dict[str, Path]:
    """Find the tensors of a folder, {name: file}."""
    from safetensors import SafetensorError, safe_open

    names: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np") as opened:
                names |= dict.fromkeys(opened.keys(), file)
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file}: not a whole safetensors file ({error}); fetch the model again"
            ) from error
    return names


def _tensor(folder: Path, wanted: tuple[str, ...]) -> tuple[Path, str]:
    """Find the first tensor whose name ends so: its file and name."""
    there = _names(folder)
    if not there:
        raise ModelError(
            f"{folder}: no safetensors file, which is what a matrix is read from; save the model again "
            "as safetensors"
        )
    for ending in wanted:
        # Models that also write have a matrix for each half; texts are read by the first.
        names = sorted(
            (name for name in there if f".{name}".endswith(f".{ending}")),
            key=lambda name: ("decoder" in name, len(name), name),
        )
        if names:
            return there[names[0]], names[0]
    listed = ", ".join(sorted(there)[:5])
    raise ModelError(
        f"{folder}: no tensor is called {', '.join(wanted)}, found {listed}; choose a model of texts"
    )
