"""The section `[encoder]` of the spec: the model, and the vectors that it gives."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from embed_ops.wording import Section, as_tuple

AUTO: Final = "auto"
PoolingMode = Literal["auto", "mean", "cls", "max", "last", "weighted_mean", "mean_sqrt_len", "pooler", "patches"]
_POOLING = {
    "text": {"auto", "mean", "cls", "max", "last", "weighted_mean", "mean_sqrt_len"},
    "static": {"auto", "mean"},
    "image": {"auto", "mean", "cls", "max", "pooler", "patches"},
    "clip": {"auto"},
    "graph": {"auto"},
}
LAYERS = r"(mean|sum|concat)\(((?:-?\d+)?:(?:-?\d+)?|-?\d+(?:,-?\d+)*)\)"
"""How `layer` names several, without spaces."""
_MOST_PIXELS = 178_956_970
"""Pillow refuses larger images, whatever it is told."""


class OutputSpec(Section):
    """One vector column."""

    name: str = Field("embedding", min_length=1, description="column name")
    pooling: PoolingMode = Field(
        "auto", description="how the vectors of tokens or patches become one; auto: mean, or what an image model has"
    )
    layer: int | str = Field(
        -1,
        description="hidden states of this layer, 0 being the first one's input, -1 the model's output; or of several: "
        '"mean(-4:)", "sum(1,2)", "concat(-4:)"',
    )
    normalize: bool = Field(False, description="divide by the L2 norm")
    dim: int | None = Field(None, gt=0, description="keep the first so many dimensions, before normalize (Matryoshka)")
    dtype: Literal["float32", "float16", "int8", "uint8"] | None = Field(
        None, description="stored type; by default sink.dtype. int8 and uint8 need quantizer"
    )
    quantizer: str | None = Field(None, description="run of a quantize stage, whose ranges turn the vectors into codes")

    def told(self) -> dict[str, Any]:
        """Say how the vectors come about, for `run.json`: what is not as it is by default, and pooling and normalisation."""
        changed = self.model_dump(exclude_defaults=True, exclude={"name", "dim"})
        return {"pooling": self.pooling, "normalize": self.normalize, **changed}

    @property
    def layer_number(self) -> int:
        """The layer, where families know one number only."""
        return int(self.layer)

    @model_validator(mode="after")
    def _codes(self) -> Self:
        if (self.quantizer is not None) != (self.dtype in ("int8", "uint8")):
            raise ValueError(
                f"output {self.name!r}: dtype int8 or uint8 and quantizer (the run of a quantize stage) go together; "
                f"found dtype {self.dtype!r}, quantizer {self.quantizer!r}"
            )
        if isinstance(self.layer, str) and not re.fullmatch(LAYERS, self.layer.replace(" ", "")):
            raise ValueError(f'output {self.name!r}: layer {self.layer!r} is no number and none of "mean(-4:)", "sum(1,2)", "concat(-4:)"')
        return self


class EncoderSpec(Section):
    """The model."""

    family: Literal["text", "static", "image", "clip", "graph"] = Field(
        "text", description="kind of model; static: means of word vectors; clip embeds images and texts in one space"
    )
    model: str = Field(description="folder, object store prefix, or hub name")
    revision: str | None = Field(None, description="hub branch, tag or commit; of a prefix, the digest of its listing")
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = Field(
        "auto", description="compute type; auto: the fastest that keeps [parity]; float32 is exact; float64: graphs only"
    )
    compile: Literal["auto"] | bool = Field("auto", description="compile the forward pass; auto: where the work repays it")
    max_tokens: int | None = Field(None, gt=0, description="cut longer rows here; by default the model's own limit")
    prompt: str | None = Field(None, description="text before every row, or the name of one of the model's prompts")
    lowercase: Literal["auto"] | bool = Field(
        "auto", description="family static: lower texts before words are looked up; auto: where the table has no capital letters"
    )
    max_pixels: int = Field(89_478_485, gt=0, le=_MOST_PIXELS, description="a larger image is a reject; the default is Pillow's own limit")
    draft: Literal["auto"] | bool = Field(
        "auto", description="let the JPEG decoder shrink large photographs; auto: where dtype is not float32 either and [parity] is kept"
    )
    outputs: Annotated[tuple[OutputSpec, ...], BeforeValidator(as_tuple)] = Field(
        (), description="vector columns; left out: the model's own modules, else mean"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [output.name for output in self.outputs]
        if len(set(names)) < len(names):
            raise ValueError("two outputs have the same name")
        for output in self.outputs:
            self._check_output(output)
        if self.family == "static" and (self.prompt is not None or self.max_tokens is not None or self.compile is True):
            raise ValueError("family static takes whole texts as they are, word by word: leave prompt, max_tokens and compile out")
        if self.family == "static" and self.dtype not in (AUTO, "float32"):
            raise ValueError(f"family static computes in float32, not in {self.dtype}; sink.dtype or an output's dtype stores less")
        if self.lowercase != AUTO and self.family != "static":
            raise ValueError(f"lowercase is for family static: leave it out with family {self.family}")
        if self.family in ("image", "graph") and (self.prompt is not None or self.max_tokens is not None):
            raise ValueError(f"prompt and max_tokens are for texts: leave them out with family {self.family}")
        if (self.dtype == "float64") != (self.dtype != "float32" and self.family == "graph" and self.dtype != AUTO):
            raise ValueError(f"family {self.family} does not compute in {self.dtype}")
        return self

    def _check_output(self, output: OutputSpec) -> None:
        if output.pooling not in (known := _POOLING[self.family]):
            raise ValueError(f"pooling {output.pooling!r} is none of family {self.family!r}: {', '.join(sorted(known))}")
        if self.family == "clip" and output.layer != -1:
            raise ValueError(f"output {output.name!r} asks for layer {output.layer}: clip has one vector, that of the shared space")
        if isinstance(output.layer, str) and self.family != "text":
            raise ValueError(f"output {output.name!r}: several layers in one vector are for family text; name an output for each layer")
        if output.layer != -1 and self.compile is True:
            raise ValueError(
                f"output {output.name!r} asks for layer {output.layer}: a compiled model gives its output only; leave compile out"
            )
        if output.layer != -1 and self.family == "static":
            raise ValueError(f"output {output.name!r} asks for layer {output.layer}: word vectors have no layers")
        if output.dim is not None and self.family not in ("text", "static"):
            raise ValueError(f"output {output.name!r}: dim is for families text and static; let a truncate stage follow instead")
        if output.dtype is not None and self.family == "graph":
            raise ValueError(f"output {output.name!r}: dtype is for texts and images; let a quantize stage follow instead")
