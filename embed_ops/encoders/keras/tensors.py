"""Lists of numbers as a network of Keras takes them: vectors, or arrays of fixed lengths."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from embed_ops.encoders.base import IntArray, Prepared
from embed_ops.encoders.images.decoding import is_image_column
from embed_ops.encoders.keras.structure import Structure, listed
from embed_ops.encoders.tensors import (
    TENSORS,
    Taken,
    blank_tensors,
    most_tensors,
    prepare_tensors,
    tensor_positions,
    tensors_of,
)
from embed_ops.errors import ModelError, SourceError
from embed_ops.spec.encoder import KerasEncoderSpec

if TYPE_CHECKING:
    from torch import Tensor

_OF_IMAGES = ("preprocessing", "mean", "scale", "size")


class Tensors:
    """The input of a network of numbers.

    Attributes:
        MODALITY: of sources.
        taken: shape and type of a row.

    Raises:
        ModelError: rows may have any length, or their type is none of numbers.
    """

    MODALITY: ClassVar[str] = "tensor"

    def __init__(self, spec: KerasEncoderSpec, structure: Structure) -> None:
        self._file, takes = structure.file, structure.takes
        if None in takes.shape:
            raise ModelError(
                f"{self._file}: takes {listed(takes.shape)} a row, and rows of any length are not made; save "
                "it with keras.Input of a fixed shape"
            )
        if given := [name for name in _OF_IMAGES if getattr(spec, name) is not None]:
            raise ModelError(
                f"{self._file}: takes {listed(takes.shape)} a row, which are no images in colours, and "
                f"encoder.{given[0]} is for these: leave it out"
            )
        dtype = "float32" if takes.dtype == "bfloat16" else takes.dtype
        if not dtype.startswith(("float", "int", "uint")):
            raise ModelError(
                f"{self._file}: takes {dtype} a row, and rows are numbers; choose another network"
            )
        self.taken = Taken(tuple(length or 0 for length in takes.shape), dtype)

    def prepare(self, column: pa.Array) -> Prepared:
        """Make arrays of a column of lists of numbers, each distinct one once.

        Raises:
            SourceError: the column holds no lists of numbers.
        """
        if is_image_column(column):
            raise SourceError(
                f"{self._file}: takes {listed(self.taken.shape)} a row, and images are (height, width, 3); "
                'give lists of numbers (source.modality = "tensor"), or choose a network of images in colours'
            )
        return prepare_tensors(column, self.taken)

    def most_rows(self, vector_bytes: int, asked: int) -> int:
        """Give the most rows of a unit; `vector_bytes`: of all vectors of one."""
        return most_tensors(self.taken, vector_bytes, asked)

    def lengths(self, inputs: pa.Table) -> IntArray:
        """Give the positions of each row, all the same: (inputs,) int32."""
        return tensor_positions(inputs, self.taken)

    def blank(self, inputs: pa.Table, places: Collection[int]) -> pa.Table:
        """Make some rows zero."""
        return blank_tensors(inputs, places, self.taken)

    def one(self) -> pa.Table:
        """Give the inputs of one row of zeros."""
        zeros = pa.array(np.zeros(self.taken.numbers, self.taken.dtype))
        return pa.table({TENSORS: pa.FixedSizeListArray.from_arrays(zeros, type=self.taken.arrow)})

    def to(self, device: str) -> Callable[[pa.Table], Tensor]:
        """Give what turns inputs into what the network takes, (B, *shape)."""
        import torch

        from embed_ops.encoders.device import to_device

        def values(inputs: pa.Table) -> Tensor:
            return to_device(torch.from_numpy(tensors_of(inputs, self.taken).copy()), torch.device(device))

        return values

    def describe(self) -> dict[str, Any]:
        """Say what the network takes of a row, for `run.json`."""
        return {"takes": {"shape": list(self.taken.shape), "dtype": self.taken.dtype}}
