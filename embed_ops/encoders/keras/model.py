"""A network in a file of Keras: what it takes and gives, before it is loaded.

Importing this module imports no torch and no Keras.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

from embed_ops.encoders.base import Output, dims_of, outputs_of
from embed_ops.encoders.keras.files import locate_keras
from embed_ops.encoders.keras.images import Images
from embed_ops.encoders.keras.network import Network, load, version
from embed_ops.encoders.keras.recorded import recorded_shapes
from embed_ops.encoders.keras.structure import listed, read_structure
from embed_ops.encoders.keras.taps import Tap, tap
from embed_ops.encoders.keras.tensors import Tensors
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import KerasEncoderSpec

_SHAPES_ONLY = "meta"
Input = Images | Tensors


class KerasModel:
    """A network, its input, and the vector columns that it gives.

    Attributes:
        spec: of the encoder.
        file: where it is; `structure`: what its configuration says.
        input: what becomes of rows before the network sees them.
        loaded: what is known once it is loaded, for `run.json`.

    Raises:
        ModelError: the file is none of Keras, holds code, or takes neither images nor numbers.
        PackageError: Keras is not installed.
    """

    def __init__(self, spec: KerasEncoderSpec) -> None:
        self.spec, self.file = spec, locate_keras(spec)
        self.structure = read_structure(self.file.path, self.file.config, self.file.saved_by)
        if self.structure.takes.dtype == "string":
            raise ModelError(
                f"{self.file.path}: takes texts, which Keras splits by TensorFlow; export it "
                '(model.export(FOLDER)) and give that folder with encoder.family = "tensorflow"'
            )
        self.input: Input = (Images if self.structure.takes.images else Tensors)(spec, self.structure)
        self.version = version()
        self.loaded: dict[str, Any] = {}

    @cached_property
    def taps(self) -> tuple[Tap, ...]:
        """The vector columns, and the layers that they are.

        Raises:
            ModelError: there is no such layer, or its tensor is no vector.
        """
        recorded, built = recorded_shapes(self.structure.top), cache(self.built)
        return tuple(tap(column, self.structure, recorded, built) for column in self.spec.named)

    def built(self) -> Any:
        """Build the network without its numbers, or load it where layers need them."""
        try:
            return load(self.file.path, _SHAPES_ONLY, self.file.saved_by)
        except ModelError:
            return self.whole("cpu")

    def whole(self, device: str) -> Any:
        """Load the network as Keras does."""
        return load(self.file.path, device, self.file.saved_by)

    def open(self, device: str) -> Network:
        """Load the network, for the layers of all columns."""
        return Network(self.whole(device), [each.path for each in self.taps], device, self.file.path)

    def outputs(self) -> tuple[Output, ...]:
        """Give the vector columns, in order.

        Raises:
            ModelError: the network gives no such vectors.
        """
        widths = {each.column.name: each.width for each in self.taps}
        return outputs_of(self.spec, self.spec.named, lambda column: widths[column.name])

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        widths = dims_of(self.outputs())
        return {
            "model": self.spec.model,
            "commit": self.file.folder.revision,
            "model_type": "keras",
            "file": self.file.name,
            "saved_by": f"keras {self.structure.saved_by}",
            "network": self.structure.top.name,
            **self.input.describe(),
            "outputs": {
                each.column.name: {
                    "dim": widths[each.column.name],
                    **each.column.told(),
                    "layer": each.path or "the network's output",
                    "shape": list(each.shape),
                }
                for each in self.taps
            },
            **self.loaded,
        }

    def require(self, modality: str) -> None:
        """Check that the network takes what the source holds.

        Raises:
            ModelError: it takes something else.
        """
        if modality != self.input.MODALITY:
            takes = self.structure.takes.shape
            raise ModelError(
                f"{self.file.path}: takes {listed(takes)} a row, and images are (height, width, 3): "
                f'source.modality is {modality!r}, and should be "{self.input.MODALITY}"; or choose another '
                "network"
            )

    def weight_bytes(self) -> int:
        """Give the size of the file."""
        return self.file.weight_bytes()

    def fingerprint(self) -> dict[str, str]:
        """Hash the file, {name: sha256}."""
        return self.file.fingerprint()
