"""Images and arrays to vectors by a network in a file of Keras, run by Keras on torch.

Importing this module imports no torch and no Keras: CPU workers prepare rows only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import (
    IMAGE,
    FloatArray,
    IntArray,
    Launched,
    Modality,
    dims_of,
    no_vectors,
    not_loaded,
)
from embed_ops.encoders.keras.model import KerasModel
from embed_ops.encoders.keras.network import Network, reason
from embed_ops.encoders.keras.structure import listed
from embed_ops.encoders.repeatable import require_repeatable
from embed_ops.encoders.tensors import TENSOR
from embed_ops.errors import EmbedOpsError, ModelError
from embed_ops.spec.encoder import KerasEncoderSpec

_TAKES = Modality(IMAGE.row_bytes, IMAGE.token_budgets, frozenset({"token_budget"}))


class KerasEncoder:
    """The keras family; implements `embed_ops.encoders.base.Encoder`.

    Vectors are those of layers that the spec names, else the network's own output.

    Raises:
        ModelError: the file is none of Keras, holds code, or takes neither images nor numbers.
        PackageError: Keras is not installed.
    """

    takes: ClassVar[Mapping[str, Modality]] = {"image": _TAKES, "tensor": TENSOR}

    def __init__(self, spec: KerasEncoderSpec) -> None:
        self._model = model = KerasModel(spec)
        self.outputs, self.describe = model.outputs, model.describe
        self.weight_bytes, self.fingerprint = model.weight_bytes, model.fingerprint
        self.prepare, self.lengths, self.blank = model.input.prepare, model.input.lengths, model.input.blank
        self._network: Network | None = None
        self._flops = 0.0

    @property
    def modality(self) -> str:
        """What the network takes: images or tensors."""
        return self._model.input.MODALITY

    def most_rows(self, modality: str, asked: int) -> int:
        """Give the most rows of a unit."""
        return self._model.input.most_rows(4 * sum(dims_of(self.outputs()).values()), asked)

    def load(self, device: str, dtype: str, *, compiled: bool = False) -> None:
        """Load the network to `device`; its types are those of the file.

        Raises:
            ModelError: another type than float32, or Keras can't load or run it.
        """
        from torch.utils.flop_counter import FlopCounterMode

        from embed_ops.encoders.device import lost_device, ran_out_of_memory

        model = self._model
        if dtype != "float32" or compiled:
            raise ModelError(
                f"{model.spec.model}: a file is run as it is, in its own types; leave dtype and compile out"
            )
        self._network, self._values = model.open(device), model.input.to(device)
        counter, one = FlopCounterMode(display=False), model.input.one()
        try:
            first = self.launch(one)()
            with counter:
                second = self.launch(one)()
        except EmbedOpsError:
            raise
        except Exception as error:  # layers fail in many ways
            if ran_out_of_memory(error) or lost_device(error):
                raise
            raise ModelError(
                f"{model.file.path}: Keras can't run it on torch ({reason(error)}); choose another network"
            ) from error
        require_repeatable(model.spec.model, first, second)
        self._flops = float(counter.get_total_flops())
        counted = "counted" if self._flops else "not counted: no product or convolution in it"
        model.loaded = {"device": device, "keras": model.version, "flops": counted}

    def launch(self, batch: pa.Table) -> Launched:
        """Start embedding a batch of inputs.

        Returns:
            a function that waits for {output: (inputs, dim) float32}.

        Raises:
            ModelError: `load` was not called, or a layer gives something else than it says.
        """
        if self._network is None:
            raise not_loaded(self._model.spec.model)
        if batch.num_rows == 0:
            return no_vectors(self)
        import torch

        from embed_ops.encoders.device import on_host

        with torch.inference_mode():
            tensors = self._network.run(self._values(batch))
            vectors = {}
            for each in self._model.taps:
                tensor = tensors[each.path]
                if tensor.dim() != 1 + len(each.shape) or tensor.shape[-1] != each.width:
                    raise ModelError(
                        f"{self._model.file.path}: layer {each.path} gives {listed(tuple(tensor.shape[1:]))} "
                        f"a row, and {listed(each.shape)} was expected; name another layer"
                    )
                vectors[each.column.name] = each.vectors(tensor)
        return on_host(vectors)

    def flops(self, lengths: IntArray) -> float:
        """Count the floating-point operations of so many rows, products and convolutions alone."""
        return self._flops * len(lengths)

    def reference(self, column: pa.Array, device: str = "cpu") -> tuple[str, Mapping[str, FloatArray]]:
        """Embed rows one at a time through Keras' own functions, from the file of an image on.

        Returns:
            the reference's name, and {output: (rows, dim) float32}; rejects are NaN.
        """
        from embed_ops.encoders.keras.reference import embed_alone

        model = self._model
        refused = np.zeros(len(column), np.bool_)
        refused[[reject.row for reject in self.prepare(column).rejects]] = True
        # Some of them would take a reference more memory than there is.
        accepted = pa.array(
            [None if no else row for row, no in zip(column, refused, strict=True)], column.type
        )
        return f"keras {model.version}, one row at a time", embed_alone(model, accepted, device)
