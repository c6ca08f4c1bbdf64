"""Finds the model folder, here or on the hub, says what is missing in it, and hashes what changes vectors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from embed_ops.encoders.settings import read_json
from embed_ops.errors import ModelError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "*.model", "*.tiktoken")
NO_VOCABULARY = frozenset({"ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer"})
"""Tokenizers of bytes or characters, which have no vocabulary file."""
SMALL = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
"""Everything but weights and code: tokenizer files and configurations."""
OTHER_FRAMEWORKS = ("onnx/*", "openvino/*", "coreml/*", "*.onnx*", "*.h5", "*.msgpack", "*.ot")


@dataclass(frozen=True)
class Folder:
    """A model folder on this machine; `commit` is the hub commit it came from, None for a local folder."""

    path: Path
    commit: str | None = None


def is_local(model: str) -> bool:
    """Say whether the name means a folder here: it is one, or is written like a path."""
    return model.startswith(("./", "../", "~", "/")) or model in (".", "..") or Path(model).exists()


def locate(model: str, revision: str | None, trust_remote_code: bool) -> Folder:
    """Find a model; from the hub, everything but the weights is fetched (CPU workers need no more).

    Raises:
        ModelError: no such folder, no such hub model, or no config.json in it.
    """
    if is_local(model):
        folder = Folder(Path(model).expanduser())
        if not folder.path.is_dir():
            kind = "a file" if folder.path.exists() else "nothing"
            raise ModelError(f"encoder.model: {model} is not a model folder (found {kind} there); correct the path")
        return folder
    code = ("*.py",) if trust_remote_code else ()
    path = _fetch(model, revision, (*SMALL, *code))
    return Folder(path, path.name if re.fullmatch(r"[0-9a-f]{40}", path.name) else None)


def fetch_weights(model: str, folder: Folder, parts: Iterable[str]) -> None:
    """Fetch a hub model's weights: safetensors, and pytorch_model.bin only for parts without; a local folder is left alone.

    Args:
        model: hub name.
        folder: what `locate` gave; its commit is fetched, so that weights and tokenizer belong together.
        parts: folders of the transformer and of the modules with weights, relative to the root.
    """
    if is_local(model):
        return
    _fetch(model, folder.commit, [f"{part}/*.safetensors".lstrip("/") for part in parts])
    bare = [part for part in parts if not any((folder.path / part).glob("*.safetensors"))]
    if bare:
        _fetch(model, folder.commit, [f"{part}/pytorch_model*.bin".lstrip("/") for part in bare])


def _fetch(model: str, revision: str | None, patterns: Iterable[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    at = f" at revision {revision}" if revision else ""
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(OTHER_FRAMEWORKS)))
    except HFValidationError as error:
        raise ModelError(f"encoder.model: {model} is no folder here and no hub name ({error}); correct the path or the name") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(f"encoder.model: {model}{at} is not on the hub (or not for this login), nor a folder here; correct it") from error
    except Exception as error:  # the network fails in many ways, all with the same remedy
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ModelError(f"encoder.model: {model}{at} can't be fetched ({reason}); check the network, or give a folder") from error


def _found(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    if not names:
        return "an empty folder" if path.is_dir() else "no such folder"
    return ", ".join(names[:20]) + (" ..." if len(names) > 20 else "")


def check_config(path: Path) -> None:
    """Check that the transformer's folder has a configuration and a tokenizer, and is no adapter.

    Raises:
        ModelError: it has not; the message lists what was found.
    """
    if (path / "adapter_config.json").is_file():
        raise ModelError(f"{path}: holds an adapter (adapter_config.json), not a model; merge it into its base model first")
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: no config.json, found {_found(path)}; give the folder of a transformers model")
    own = read_json(path / "tokenizer_config.json")
    stated = own.get("tokenizer_class") in NO_VOCABULARY or "auto_map" in own
    if not stated and not any(any(path.glob(pattern)) for pattern in TOKENIZERS):
        raise ModelError(f"{path}: no tokenizer ({', '.join(TOKENIZERS[:5])}), found {_found(path)}; save the tokenizer there too")


def check_weights(path: Path) -> None:
    """Check that the transformer's folder has weights that torch can read.

    Raises:
        ModelError: it has none; the message lists what was found.
    """
    if not any((path / name).is_file() for name in WEIGHTS):
        raise ModelError(f"{path}: no weights ({', '.join(WEIGHTS)}), found {_found(path)}; give a folder with safetensors weights")


def fingerprint(folder: Folder, parts: Iterable[str], code: bool) -> dict[str, str]:
    """Hash the files that change vectors, {path in the folder: sha256}; a hub model's weights stand as its commit.

    Args:
        folder: the model folder.
        parts: folders of the transformer and of the modules, relative to the root.
        code: the model's own Python is run, so it is hashed too.
    """
    files: set[Path] = set()
    for part in {"", *parts}:
        here = folder.path / part
        for pattern in SMALL:
            files |= set(here.glob(pattern))
        if folder.commit is None:
            files |= set(here.glob("*.safetensors")) or set(here.glob("pytorch_model*.bin"))
    if code:
        files |= set(folder.path.rglob("*.py"))
    hashes = {}
    for file in sorted(files):
        if file.is_file():
            with file.open("rb") as stream:
                hashes[file.relative_to(folder.path).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes if folder.commit is None else {**hashes, "commit": folder.commit}


def weight_bytes(path: Path) -> int:
    """Add up the sizes of the weight files that would be loaded, 0 where they are not here yet."""
    files = list(path.glob("*.safetensors")) or list(path.glob("pytorch_model*.bin"))
    return sum(file.stat().st_size for file in files)
