"""Where a SavedModel is, and what else lies there in its place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from embed_ops.encoders.hub.files import is_pointer, sha256_of
from embed_ops.encoders.hub.folder import SMALL, Folder, fetch_files, locate_model
from embed_ops.encoders.tensorflow.saved_model import Contents, read_contents
from embed_ops.errors import ModelError

GRAPH = "saved_model.pb"
_PARTS = (GRAPH, "variables/*", "assets/*")
"""The files of a SavedModel."""
_UNUSED = ("onnx/*", "openvino/*", "coreml/*", "checkpoint-*/*")
_OF_OTHERS = {
    "*.keras": 'a model of Keras: encoder.family = "keras"',
    "*.h5": 'a model of Keras: encoder.family = "keras"',
    "*.hdf5": 'a model of Keras: encoder.family = "keras"',
    "*.tflite": "a TFLite model, which is not read here: save the model that it was made of",
    "*.onnx": 'a model of ONNX: encoder.family = "onnx"',
    "tfhub_module.pb": "a module of TensorFlow 1: choose the model's version for TensorFlow 2",
    "saved_model.pbtxt": "a SavedModel as text: save it again (tf.saved_model.save)",
    "*.pb": "a bare graph of TensorFlow: save it as SavedModel (tf.saved_model.save)",
    "*.ckpt*": "a checkpoint, which has weights and no model: save it as SavedModel (tf.saved_model.save)",
    "*.index": "a checkpoint, which has weights and no model: save it as SavedModel (tf.saved_model.save)",
    "config.json": 'a model of transformers: encoder.family = "text" or "image"',
}
"""What stands where a SavedModel was expected, and what it is."""


@dataclass(frozen=True)
class SavedModel:
    """A SavedModel on this machine.

    Attributes:
        folder: where it is.
        field: of the spec, that names it.
    """

    folder: Folder
    field: str

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @cached_property
    def contents(self) -> Contents:
        """What it says of itself."""
        return read_contents(self.path / GRAPH)

    def files(self) -> list[Path]:
        """List the files that change vectors, in order."""
        listed = [self.path / GRAPH]
        for part in ("variables", "assets"):
            listed += [file for file in (self.path / part).rglob("*") if file.is_file()]
        return sorted(listed)

    def fingerprint(self, prefix: str = "") -> dict[str, str]:
        """Hash them: {path in the folder: sha256}, `prefix` in front of each path."""
        return {prefix + file.relative_to(self.path).as_posix(): sha256_of(file) for file in self.files()}

    def bytes(self) -> int:
        """Add up their sizes."""
        return sum(file.stat().st_size for file in self.files())


def locate_saved_model(model: str, revision: str | None = None, field: str = "encoder.model") -> SavedModel:
    """Find a SavedModel; one that is not here is fetched whole.

    Args:
        model: folder, object store prefix, or hub name.
        revision: of a model that is not here.
        field: of the spec, that names it.

    Raises:
        ModelError: there is none; says what is there instead.
        StorageError: the hub or the object store can't be reached.
    """
    here = Path(model).expanduser()
    if "://" not in model and here.is_file():
        named = "the file of one" if here.name == GRAPH else _told(here.parent, here.name)
        raise ModelError(f"{field}: {model} is {named}; family tensorflow takes the folder of a SavedModel")
    folder = locate_model(model, revision, False, (*SMALL, *_PARTS), _UNUSED)
    fetch_files(folder, _PARTS)
    saved = SavedModel(folder, field)
    if not (saved.path / GRAPH).is_file():
        raise ModelError(f"{field}: {model} holds no SavedModel ({GRAPH}), found {_inside(saved.path)}")
    if not (saved.path / GRAPH).stat().st_size:
        raise ModelError(f"{saved.path / GRAPH}: is an empty file; fetch the model again, or save it again")
    for file in saved.files():
        if is_pointer(file):
            raise ModelError(
                f"{file}: is a Git LFS pointer, which stands for the file; fetch the file itself (git lfs "
                "pull)"
            )
    return saved


def _inside(path: Path) -> str:
    """Say what a folder holds instead."""
    versions = sorted(file.parent.name for file in path.glob(f"*/{GRAPH}"))
    if versions:
        return f"one in {', '.join(f'{name}/' for name in versions[:5])}: name that folder"
    names = sorted(entry.name for entry in path.iterdir())
    return _told(path) if _known(path) else f"{', '.join(names[:10]) or 'nothing'}; correct the path"


def _known(path: Path, name: str = "*") -> list[str]:
    named = [what for pattern, what in _OF_OTHERS.items() if _matches(path, pattern, name)]
    return list(dict.fromkeys(named))


def _matches(path: Path, pattern: str, name: str) -> bool:
    return any(name in ("*", file.name) for file in path.glob(pattern))


def _told(path: Path, name: str = "*") -> str:
    return (_known(path, name) or ["another file"])[0]
