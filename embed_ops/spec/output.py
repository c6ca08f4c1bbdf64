"""The sections `[[encoder.outputs]]` of the spec: the vector columns."""

from __future__ import annotations

import re
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from embed_ops.spec.wording import ColumnName, Section

AUTO: Final = "auto"
PoolingMode = Literal[
    "auto", "mean", "cls", "max", "first", "last", "weighted_mean", "mean_sqrt_len", "pooler", "patches"
]
LAYERS = r"(mean|sum|concat)\(((?:-?\d+)?:(?:-?\d+)?|-?\d+(?:,-?\d+)*)\)"
"""How `layer` names several, without spaces."""
COMPANIONS = {
    "word": ("word", "word_index", "word_start", "word_end", "word_tokens"),
    "token": ("token", "token_start", "token_end"),
    "window": ("window_start", "window_end", "window_tokens"),
    "chunk": ("chunk_start", "chunk_end", "chunk_tokens"),
}
"""Columns beside outputs that have a vector for each word, token, window or chunk: lists as long as
those of the vectors."""


class OutputSpec(Section):
    """One vector column."""

    name: ColumnName = Field("embedding", description="column name")
    pooling: PoolingMode = Field(
        "auto",
        description="how the vectors of tokens or patches become one; auto: mean, or what the model has",
    )
    layer: int | str = Field(
        -1,
        description="hidden states of this layer, 0 being the first one's input, -1 the model's output; "
        "or of several: "
        '"mean(-4:)", "sum(1,2)", "concat(-4:)"',
    )
    each: Literal["auto", "row", "word", "token", "window", "chunk"] = Field(
        "auto",
        description="texts: what has a vector; but for row, each row has a list of vectors. auto: row, "
        "of family words: word",
    )
    tensor: str | None = Field(
        None,
        min_length=1,
        description="families onnx, keras: the graph's output that is taken, or a tensor or layer inside it; "
        "tensorflow: the signature's output",
    )
    normalize: bool = Field(False, description="divide by the L2 norm")
    dim: int | None = Field(
        None, gt=0, description="keep the first so many dimensions, before normalize (Matryoshka)"
    )
    dtype: Literal["float32", "float16", "int8", "uint8"] | None = Field(
        None, description="stored type; by default sink.dtype. int8 and uint8 need quantizer"
    )
    quantizer: str | None = Field(
        None, description="run of a quantize stage, whose ranges turn the vectors into codes"
    )

    def told(self) -> dict[str, Any]:
        """Say how the vectors come about, for `run.json`.

        What is not as it is by default, and pooling and normalisation.
        """
        changed = self.model_dump(exclude_defaults=True, exclude={"name", "dim"})
        return {"pooling": self.pooling, "normalize": self.normalize, **changed}

    @property
    def layer_number(self) -> int:
        """The layer, where families know one number only."""
        return int(self.layer)

    @model_validator(mode="after")
    def _codes_have_a_quantizer(self) -> Self:
        if (self.quantizer is not None) != (self.dtype in ("int8", "uint8")):
            raise ValueError(
                f"output {self.name!r}: dtype int8 or uint8 and quantizer (the run of a quantize stage) "
                "go together; "
                f"found dtype {self.dtype!r}, quantizer {self.quantizer!r}"
            )
        return self

    @model_validator(mode="after")
    def _layers_can_be_read(self) -> Self:
        if isinstance(self.layer, str) and not re.fullmatch(LAYERS, self.layer.replace(" ", "")):
            raise ValueError(
                f'output {self.name!r}: layer {self.layer!r} is no number and none of "mean(-4:)", '
                '"sum(1,2)", "concat(-4:)"'
            )
        return self
