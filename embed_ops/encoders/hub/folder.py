"""Finds the model folder, says what is missing in it, and hashes what changes vectors.

It is here, on a hub or on an object store.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from embed_ops.encoders.hub import prefix as prefixes
from embed_ops.encoders.hub.contents import check_weights
from embed_ops.encoders.hub.files import sha256_of
from embed_ops.encoders.hub.prefix import Prefix
from embed_ops.errors import ModelError
from embed_ops.storage import files as filesystem

SMALL = ("*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
"""Everything but weights and code: tokenizer files and configurations."""
UNUSED = ("onnx/*", "openvino/*", "coreml/*", "*.onnx*", "*.h5", "*.msgpack", "*.ot", "checkpoint-*/*")
"""What is never fetched: weights of other frameworks and of steps of a training."""
KEPT = (*SMALL, "*.py", "*.safetensors", "*pytorch_model*.bin")
"""Everything that a model on an object store may need."""


@dataclass(frozen=True)
class Folder:
    """A model folder on this machine, and where it came from.

    Attributes:
        path: the folder.
        model: the spec's `encoder.model`.
        commit: the commit of a hub model.
        prefix: the listing of a model on an object store.
        unused: patterns of what is never fetched.
    """

    path: Path
    model: str
    commit: str | None = None
    prefix: Prefix | None = None
    unused: tuple[str, ...] = UNUSED

    @property
    def local(self) -> bool:
        """Whether it is the user's own folder, and so complete as it is."""
        return self.commit is None and self.prefix is None

    @property
    def revision(self) -> str | None:
        """What every other process must ask for to get the same model.

        The commit, or the digest of the listing.
        """
        return self.prefix.digest if self.prefix else self.commit


def is_local(model: str) -> bool:
    """Say whether the name means a folder here: it is one, or is written like a path."""
    return model.startswith(("./", "../", "~", "/")) or model in (".", "..") or Path(model).exists()


def locate_model(
    model: str,
    revision: str | None,
    trust_remote_code: bool,
    kept: Sequence[str] = KEPT,
    unused: tuple[str, ...] = UNUSED,
) -> Folder:
    """Find a model.

    From a hub or an object store everything but the weights is fetched: CPU workers need no more.

    Args:
        model: folder, prefix or hub name.
        revision: of a model that is not here.
        trust_remote_code: its own code is fetched as well.
        kept: patterns of all files that it may need.
        unused: patterns of those among them that it needs never.

    Raises:
        ModelError: no such folder, prefix or hub model, or no config.json in it.
        StorageError: the hub or the object store can't be reached.
    """
    code = ("*.py",) if trust_remote_code else ()
    if "://" in model and not is_local(model):
        at = filesystem.locate(model)
        if at.local:
            return _own(at.path, model)
        prefix = prefixes.open_prefix(model, revision, kept, unused)
        return Folder(prefixes.fetch(prefix, (*SMALL, *code), unused), model, None, prefix, unused)
    if is_local(model):
        return _own(model, model)
    from embed_ops.encoders.hub import huggingface as hub

    commit = hub.commit_of(model, revision)
    return Folder(hub.fetch(model, commit, (*SMALL, *code), unused), model, commit, None, unused)


def _own(path: str, model: str) -> Folder:
    folder = Folder(Path(path).expanduser(), model)
    if not folder.path.is_dir():
        kind = "a file" if folder.path.exists() else "nothing"
        raise ModelError(
            f"encoder.model: {model} is not a model folder (found {kind} there); correct the path"
        )
    return folder


def fetch_weights(folder: Folder, parts: Sequence[str] = ("",)) -> None:
    """Fetch weights, and check that there are some.

    Safetensors, and pytorch_model.bin only for parts without.

    Args:
        folder: what `locate` gave; weights come from the same commit or listing as the tokenizer.
            One of the user's own is left alone.
        parts: folders of the transformer, which comes first, and of the modules with weights,
            relative to the root.

    Raises:
        ModelError, StorageError: as `locate`, or the transformer has no weights.
    """
    if not folder.local:
        _fetch_weights(folder, parts)
    check_weights(folder.path / parts[0])


def _fetch_weights(folder: Folder, parts: Sequence[str]) -> None:
    fetch_files(folder, [f"{part}/*.safetensors".lstrip("/") for part in parts])
    bare = [part for part in parts if not any((folder.path / part).glob("*.safetensors"))]
    if bare:
        fetch_files(folder, [f"{part}/pytorch_model*.bin".lstrip("/") for part in bare])


def fetch_files(folder: Folder, patterns: Sequence[str]) -> None:
    """Fetch the files that match, of the same commit or listing; nothing of a folder here."""
    if folder.prefix is not None:
        prefixes.fetch(folder.prefix, patterns, folder.unused)
    elif folder.commit is not None:
        from embed_ops.encoders.hub import huggingface as hub

        hub.fetch(folder.model, folder.commit, patterns, folder.unused)


def fingerprint(
    folder: Folder, code: bool, weights: Sequence[str] = ("",), others: Iterable[str] = ()
) -> dict[str, str]:
    """Hash the files that change vectors, {path in the folder: sha256}.

    A hub model's weights stand as its commit.

    Args:
        folder: the model folder; what it lacks of a model on an object store is fetched.
        code: the model's own Python is run, so it is hashed too.
        weights: as `parts` of `fetch_weights`.
        others: folders of the modules without weights.

    Raises:
        ModelError, StorageError: as `fetch_weights`.
    """
    if folder.prefix is not None:
        fetch_weights(folder, weights)
    files: set[Path] = set()
    for part in {"", *weights, *others}:
        here = folder.path / part
        for pattern in SMALL:
            files |= set(here.glob(pattern))
        if folder.commit is None:
            files |= set(here.glob("*.safetensors")) or set(here.glob("pytorch_model*.bin"))
    if code:
        files |= set(folder.path.rglob("*.py"))
    there = [file for file in sorted(files) if file.is_file()]
    hashes = {file.relative_to(folder.path).as_posix(): sha256_of(file) for file in there}
    return hashes if folder.commit is None else {**hashes, "commit": folder.commit}


def weight_bytes(path: Path) -> int:
    """Add up the sizes of the weight files that would be loaded, 0 where they are not here yet."""
    files = list(path.glob("*.safetensors")) or list(path.glob("pytorch_model*.bin"))
    return sum(file.stat().st_size for file in files)
