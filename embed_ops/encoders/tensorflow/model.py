"""A SavedModel as the spec asks for it: what it takes of rows, and the vectors that it gives.

Importing this module imports no TensorFlow.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from embed_ops.encoders.base import Output, dims_of, outputs_of
from embed_ops.encoders.images.pixels import Preprocessing
from embed_ops.encoders.tensorflow.files import SavedModel, locate_saved_model
from embed_ops.encoders.tensorflow.saved_model import FLOATS, STRING
from embed_ops.encoders.tensorflow.session import FRONT_SIGNATURE, Session, require_runtime
from embed_ops.encoders.tensorflow.wiring import (
    Input,
    Wire,
    check_front,
    image_steps,
    input_of,
    require_text,
    signature_of,
    tensor_of,
    wire,
)
from embed_ops.encoders.tensors import Taken
from embed_ops.errors import ModelError
from embed_ops.spec.encoder import TensorflowEncoderSpec

_WRITES = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc", "WriteFile"})
"""Operators that run code of their own, or write files; a model needs none of them."""


class TensorflowModel:
    """A SavedModel, and the vector columns that it gives.

    Attributes:
        spec: of the encoder.
        saved: where it is; `front`: what stands before it.
        signature: what it takes and gives; `taken`: what the first of them takes of rows.
        loaded: what is known once it is loaded, for `run.json`.

    Raises:
        ModelError: there is no such model or signature, or it takes nothing that a row can be.
        PackageError: TensorFlow is not installed.
    """

    def __init__(self, spec: TensorflowEncoderSpec) -> None:
        self.spec = spec
        self.saved = locate_saved_model(spec.model, spec.revision)
        self.signature = signature_of(self.saved, spec.signature)
        self.front: SavedModel | None = None
        first, signature = self.saved, self.signature
        if spec.preprocessing is not None:
            self.front = first = locate_saved_model(spec.preprocessing, field="encoder.preprocessing")
            if not first.folder.local:
                raise ModelError(
                    f"encoder.preprocessing: {spec.preprocessing} is no folder here, and may be another one "
                    "tomorrow; copy it, and name the folder"
                )
            signature = signature_of(first, FRONT_SIGNATURE)
            check_front(first, signature.outputs, self.saved, self.signature.inputs)
        for saved in (self.saved, first):
            _require_harmless(saved)
        self.taken: Input = input_of(first, signature)
        self._where = f"{first.path}: its input {self.taken.name}"
        require_runtime()
        self.loaded: dict[str, Any] = {}

    @cached_property
    def wires(self) -> tuple[Wire, ...]:
        """The vector columns, and the outputs that they are."""
        return tuple(wire(column, self.saved, self.signature.outputs) for column in self.spec.named)

    @cached_property
    def steps(self) -> Preprocessing:
        """What is done with images.

        Raises:
            ModelError: the model takes none.
        """
        return image_steps(self.taken, self.spec, self._where)

    @cached_property
    def tensors(self) -> Taken:
        """What is made of tensors.

        Raises:
            ModelError: the model takes none.
        """
        return tensor_of(self.taken, self._where)

    def require(self, modality: str) -> None:
        """Check that the model takes rows of a modality.

        Raises:
            ModelError: it takes something else.
        """
        if modality == "image":
            _ = self.steps
        elif modality == "tensor":
            _ = self.tensors
        else:
            require_text(self.taken, self._where)

    def open(self) -> Session:
        """Load the model, for the outputs of all columns."""
        wanted = [wire.output for wire in self.wires]
        return Session(self.saved, self.spec.signature, self.taken, wanted, self.front)

    def outputs(self) -> tuple[Output, ...]:
        """Give the vector columns, in order.

        Raises:
            ModelError: the signature gives no such vectors.
        """
        widths = {wire.column.name: wire.dim for wire in self.wires}
        return outputs_of(self.spec, self.spec.named, lambda column: widths[column.name])

    def describe(self) -> dict[str, Any]:
        """Say what the model became, for `run.json`; all JSON values."""
        widths = dims_of(self.outputs())
        of_floats = self.taken.tensor.dtype in FLOATS
        return {
            "model": self.spec.model,
            "commit": self.saved.folder.revision,
            "model_type": "tensorflow",
            "signature": self.spec.signature,
            "preprocessing": self.spec.preprocessing,
            "input": f"{self.taken.name} {self.taken.tensor}",
            "value_range": list(self.spec.value_range) if of_floats else None,
            "rows_at_once": "one" if self.taken.alone else "a batch",
            "flops": "not counted: a graph of TensorFlow does not tell them",
            "outputs": {
                wire.column.name: {
                    "dim": widths[wire.column.name],
                    **wire.column.told(),
                    "tensor": wire.output,
                }
                for wire in self.wires
            },
            **self.loaded,
        }

    @property
    def takes_texts(self) -> bool:
        """Whether rows are strings."""
        return self.taken.tensor.dtype == STRING

    def weight_bytes(self) -> int:
        """Give the size of the files."""
        return self.saved.bytes() + (0 if self.front is None else self.front.bytes())

    def fingerprint(self) -> dict[str, str]:
        """Hash graph, variables and assets, of what stands in front too, {name: sha256}."""
        front = {} if self.front is None else self.front.fingerprint("preprocessing/")
        return self.saved.fingerprint() | front


def _require_harmless(saved: SavedModel) -> None:
    """Refuse a graph with operators that a model has no use for.

    Raises:
        ModelError: names them.
    """
    if found := sorted(_WRITES & saved.contents.operators):
        raise ModelError(
            f"{saved.path}: its graph has the operators {', '.join(found)}, which run code that is not in it "
            "or write files; do not use this model, or save it again without them"
        )
