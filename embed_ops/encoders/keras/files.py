"""Where a network of Keras is: its file, and the configuration in it, read without Keras.

A `.keras` file is a zip, a `.h5` file is HDF5; both hold the layers as JSON beside the weights.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from embed_ops.encoders.hub.files import is_pointer, sha256_of
from embed_ops.encoders.hub.folder import SMALL, Folder, fetch_files, locate_model
from embed_ops.errors import ModelError
from embed_ops.lazy import require
from embed_ops.spec.encoder import KerasEncoderSpec

ENDINGS = (".keras", ".h5", ".hdf5")
_PATTERNS = tuple(f"*{ending}" for ending in ENDINGS)
_UNUSED = (
    "onnx/*",
    "openvino/*",
    "coreml/*",
    "*.msgpack",
    "*.ot",
    "checkpoint-*/*",
    "*.weights.h5",
    "tf_model.h5",
)
_SAVED_MODEL = ("saved_model.pb", "saved_model.pbtxt")
_CONFIG, _METADATA = "config.json", "metadata.json"
_MOST_CONFIG = 256 << 20
"""Bytes of a configuration: none is that large."""
_SAVE = "save the whole network again by model.save('model.keras')"


@dataclass(frozen=True)
class KerasFile:
    """The file of a network.

    Attributes:
        folder: the model folder, or that of a single file.
        name: of the file, relative to the folder.
    """

    folder: Folder
    name: str

    @property
    def path(self) -> Path:
        """The file itself."""
        return self.folder.path / self.name

    @cached_property
    def _read(self) -> tuple[str | bytes, str | None]:
        if is_pointer(self.path):
            raise ModelError(
                f"{self.path}: is a Git LFS pointer, which stands for the file; fetch the file itself (git "
                "lfs pull)"
            )
        return _of_zip(self.path) if self.path.suffix == ".keras" else _of_hdf5(self.path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The network as JSON: its class and its layers.

        Raises:
            ModelError: the file is none of Keras, is cut, or holds weights alone.
        """
        try:
            config = json.loads(self._read[0])
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{self.path}: its configuration can't be read ({error}); {_SAVE}") from error
        if not isinstance(config, dict) or "config" not in config:
            raise ModelError(f"{self.path}: its configuration names no layers; {_SAVE}")
        return config

    @property
    def saved_by(self) -> str:
        """The version of Keras that has written it, "?" where it does not say."""
        return self._read[1] or "?"

    def weight_bytes(self) -> int:
        """Give the size of the file."""
        return self.path.stat().st_size

    def fingerprint(self) -> dict[str, str]:
        """Hash the file, {name: sha256}."""
        return {self.path.name: sha256_of(self.path)}


def _of_zip(file: Path) -> tuple[bytes, str | None]:
    """Read a `.keras` file: its configuration, and the version of Keras."""
    if not zipfile.is_zipfile(file):
        begins = _begins(file)
        if begins.startswith(b"PK"):
            raise ModelError(f"{file}: is cut short, the end of the zip is missing; fetch it again")
        raise ModelError(f"{file}: is no file of Keras: a zip is expected, and it begins with {begins!r}")
    try:
        with zipfile.ZipFile(file) as archive:
            if _CONFIG not in archive.namelist():
                raise ModelError(
                    f"{file}: is no file of Keras: there is no {_CONFIG} in it, found "
                    f"{', '.join(archive.namelist()[:5]) or 'nothing'}"
                )
            if archive.getinfo(_CONFIG).file_size > _MOST_CONFIG:
                raise ModelError(f"{file}: its {_CONFIG} is larger than any network's; do not use this file")
            told = archive.read(_METADATA) if _METADATA in archive.namelist() else b"{}"
            return archive.read(_CONFIG), json.loads(told).get("keras_version")
    except (zipfile.BadZipFile, OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{file}: can't be read ({error}); fetch it again") from error


def _of_hdf5(file: Path) -> tuple[str | bytes, str | None]:
    """Read a `.h5` file: its configuration, and the version of Keras."""
    h5py = require("h5py", "keras", "family keras")
    if not h5py.is_hdf5(file):
        raise ModelError(
            f"{file}: is no file of Keras: HDF5 is expected, and it begins with {_begins(file)!r}"
        )
    try:
        with h5py.File(file, "r") as opened:
            config, version = opened.attrs.get("model_config"), opened.attrs.get("keras_version")
    except OSError as error:
        raise ModelError(f"{file}: can't be read ({error}); fetch it again") from error
    if config is None:
        raise ModelError(f"{file}: holds weights alone, without the layers that they are of; {_SAVE}")
    return config, version.decode() if isinstance(version, bytes) else version


def _begins(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(8)


def locate_keras(spec: KerasEncoderSpec) -> KerasFile:
    """Find the file that a spec means; one that is not here is fetched.

    Raises:
        ModelError: no such folder or file, or several.
        StorageError: the hub or the object store can't be reached.
    """
    model, name = spec.model, None
    here = Path(model).expanduser()
    if here.is_file() and here.suffix not in ENDINGS:
        raise ModelError(f"{model}: a file of Keras ends in {' or '.join(ENDINGS)}; rename it if it is one")
    if model.endswith(ENDINGS) and ("://" in model or not here.is_dir()):
        model, _, name = model.rpartition("/")
        model = model or ("/" if spec.model.startswith("/") else ".")
    folder = locate_model(model, spec.revision, False, (*SMALL, *_PATTERNS), _UNUSED)
    fetch_files(folder, _PATTERNS if name is None else (name,))
    return KerasFile(folder, _chosen(folder.path, spec.model, name))


def _chosen(folder: Path, model: str, name: str | None) -> str:
    there = sorted(file.name for pattern in _PATTERNS for file in folder.glob(pattern))
    if name is not None:
        if (folder / name).is_file():
            return name
        raise ModelError(f"{model}: no such file, found {', '.join(there) or 'none of Keras'} in that folder")
    whole = [file for file in there if not file.endswith((".weights.h5", "tf_model.h5"))]
    if len(whole) == 1:
        return whole[0]
    if whole:
        raise ModelError(
            f"{model}: several files may be meant ({', '.join(whole)}); name one, as "
            f'model = "{model.rstrip("/")}/{whole[0]}"'
        )
    if any((folder / part).is_file() for part in _SAVED_MODEL):
        raise ModelError(f'{model}: is a SavedModel of TensorFlow, which encoder.family = "tensorflow" runs')
    if there:
        raise ModelError(f"{model}: {there[0]} holds weights alone, without the layers; {_SAVE}")
    raise ModelError(f"{model}: no {' or '.join(ENDINGS)} file there; name the file of a network of Keras")
