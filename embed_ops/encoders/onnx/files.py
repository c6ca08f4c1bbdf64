"""Where an ONNX model is: its file, weights and configurations beside it, what decides vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from embed_ops.encoders.hub.files import is_pointer, sha256_of
from embed_ops.encoders.hub.folder import SMALL, Folder, fetch_files, locate_model
from embed_ops.encoders.onnx.graph import Graph, read_graph
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import OnnxEncoderSpec

NAMES = ("model.onnx", "onnx/model.onnx")
"""What a file is called where the spec names none."""
_OUTSIDE = ("*.onnx_data*", "*.onnx.data*", "*.data", "*.bin", "*.pb", "*.weight*")
"""How files with a graph's weights are named."""
_KEPT = (*SMALL, "*.onnx", "*.safetensors", *_OUTSIDE)
_UNUSED = ("openvino/*", "coreml/*", "*.h5", "*.msgpack", "*.ot", "checkpoint-*/*")


@dataclass(frozen=True)
class OnnxFiles:
    """The files of a model.

    Attributes:
        folder: the model folder, or that of a single file.
        name: of the ONNX file, relative to the folder.
    """

    folder: Folder
    name: str

    @property
    def file(self) -> Path:
        """The ONNX file."""
        return self.folder.path / self.name

    def beside(self, names: Sequence[str]) -> Path | None:
        """Give the folder that has one of these files: that of the ONNX file, or its parent.

        Raises:
            ModelError: a pointer stands in the place of one.
        """
        own = self.file.absolute().parent
        for place in (own, own.parent):
            for name in names:
                if is_pointer(place / name):
                    raise ModelError(
                        f"{place / name}: is a Git LFS pointer, which stands for the file; fetch the file "
                        "itself (git lfs pull)"
                    )
                if (place / name).is_file():
                    return place
        return None

    @cached_property
    def graph(self) -> Graph:
        """What the file says of its graph; its weights are all there.

        Raises:
            ModelError: it is no ONNX file, or weights that it names are not there.
        """
        graph = read_graph(self.file)
        for name in graph.external:
            parts = PurePosixPath(name.replace("\\", "/"))
            if not name or parts.is_absolute() or ".." in parts.parts:
                raise ModelError(
                    f"{self.file}: its weights are said to be in {name!r}, outside of its folder; do not use "
                    "this model"
                )
        below = PurePosixPath(self.name).parent
        fetch_files(self.folder, [str(below / name) for name in graph.external])
        for file in self._outside(graph):
            if not file.is_file() or is_pointer(file):
                raise ModelError(
                    f"{self.file}: its weights are in {file.name}, which is not there (or a Git LFS pointer "
                    "is); put that file beside it"
                )
        return graph

    def _outside(self, graph: Graph) -> list[Path]:
        return [self.file.parent / name for name in graph.external]

    def weight_bytes(self) -> int:
        """Give the size of the file and of the weights beside it."""
        return sum(file.stat().st_size for file in (self.file, *self._outside(self.graph)))

    def fingerprint(self, home: Path, others: Mapping[str, Path]) -> dict[str, str]:
        """Hash what decides vectors, {name: sha256}.

        Args:
            home: the folder whose configurations count.
            others: {name: file} of what counts besides.
        """
        files = {file.name: file for file in (self.file, *self._outside(self.graph))}
        files |= {file.name: file for file in home.glob("*.json")} | dict(others)
        return {name: sha256_of(file) for name, file in sorted(files.items())}


def locate_onnx(spec: OnnxEncoderSpec) -> OnnxFiles:
    """Find the file that a spec means.

    One that is not here is fetched, graph and weights being one.

    Raises:
        ModelError: no such folder or file, or several of which none is named.
        StorageError: the hub or the object store can't be reached.
    """
    model, name = spec.model, spec.file
    if name is not None and (PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts):
        raise ModelError(f"encoder.file: {name!r} leads out of the model; name a file in it")
    single = model.endswith(".onnx") and ("://" in model or not Path(model).expanduser().is_dir())
    if single:
        if name is not None:
            raise ModelError(
                f"encoder.model: {model} is a file, and encoder.file names another; give the folder, or "
                "leave file out"
            )
        model, _, name = model.rpartition("/")
        model = model or ("/" if spec.model.startswith("/") else ".")
    folder = locate_model(model, spec.revision, False, _KEPT, _UNUSED)
    fetch_files(folder, NAMES if name is None else (name,))
    return OnnxFiles(folder, _chosen(folder, spec.model, name))


def _chosen(folder: Folder, model: str, name: str | None) -> str:
    there = sorted(
        path.relative_to(folder.path).as_posix()
        for pattern in ("*.onnx", "onnx/*.onnx")
        for path in folder.path.glob(pattern)
    )
    if name is not None:
        if (folder.path / name).is_file():
            return name
        raise ModelError(
            f"{model}: no file {name} there, found {', '.join(there) or 'no .onnx file'}; correct file"
        )
    usual = [usual for usual in NAMES if usual in there]
    if len(usual) == 1 or len(there) == 1:
        return (usual or there)[0]
    if there:
        raise ModelError(
            f"{model}: several files may be meant ({', '.join(there)}); name one by encoder.file, as "
            f'file = "{there[0]}"'
        )
    looked = "model.onnx, onnx/model.onnx" if not folder.local else "in it or in its onnx/"
    raise ModelError(
        f"{model}: no .onnx file ({looked}); name it by encoder.file, or give a folder that has one"
    )
