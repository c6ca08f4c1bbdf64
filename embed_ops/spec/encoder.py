"""The section `[encoder]` of the spec: the model, and the vectors that it gives.

`EncoderSpec` has what every family has, and answers what is asked of any of them. A class for each
family adds its own fields; `AnyEncoder` is what the section may be, chosen by its word `family`.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from embed_ops.spec.encoder_parts import (
    MAX_PIXELS,
    OF_IMAGES,
    OF_TEXTS,
    ONLY_AUTO,
    EncoderSpec,
    PromptedSpec,
    WithImagesSpec,
    refuse_dim,
)
from embed_ops.spec.language import LanguageEncoderSpec
from embed_ops.spec.output import AUTO, COMPANIONS, LAYERS, OutputSpec, PoolingMode
from embed_ops.spec.runtimes import KerasEncoderSpec, OnnxEncoderSpec, TensorflowEncoderSpec
from embed_ops.spec.wording import chosen_by

__all__ = [
    "AUTO",
    "COMPANIONS",
    "LAYERS",
    "MAX_PIXELS",
    "OF_IMAGES",
    "OF_TEXTS",
    "AnyEncoder",
    "ClipEncoderSpec",
    "EncoderSpec",
    "GraphEncoderSpec",
    "ImageEncoderSpec",
    "KerasEncoderSpec",
    "LanguageEncoderSpec",
    "OnnxEncoderSpec",
    "OutputSpec",
    "PoolingMode",
    "StaticEncoderSpec",
    "TensorflowEncoderSpec",
    "TextEncoderSpec",
    "WordsEncoderSpec",
]


class TextEncoderSpec(LanguageEncoderSpec):
    """A vector for each text."""

    EMBEDS = ("text",)
    family: Literal["text"] = Field("text", description="a language model")


class WordsEncoderSpec(LanguageEncoderSpec):
    """A vector for each word of a text, or of a list of words."""

    EMBEDS = ("text", "words")
    family: Literal["words"] = Field("words", description="a language model, with a vector for each word")

    def each(self, output: OutputSpec) -> str:
        """Say what an output has a vector for: a word, unless it says otherwise."""
        return "word" if output.each == AUTO else output.each


class StaticEncoderSpec(EncoderSpec):
    """Weighted means of word vectors."""

    EMBEDS = ("text",)
    POOLING = frozenset({"auto", "mean"})
    DTYPES = frozenset()
    REMARK = "it takes whole texts as they are, word by word"
    GPUS = "never"
    family: Literal["static"] = Field("static", description="means of word vectors")
    lowercase: Literal["auto"] | bool = Field(
        "auto",
        description="lower texts before words are looked up; auto: where the table has no capital letters",
    )
    weights: str | None = Field(
        None, description="folder that `fit-weights` has written; left out: a plain mean"
    )
    weighting: Literal["sif", "tfidf"] = Field("sif", description="what the weights make of a word")

    @model_validator(mode="after")
    def _nothing_is_compiled(self) -> Self:
        if self.compile is True:
            raise ValueError("family static takes whole texts as they are, word by word: leave compile out")
        return self

    @model_validator(mode="after")
    def _weighting_has_weights(self) -> Self:
        if self.weighting != "sif" and self.weights is None:
            raise ValueError(
                f"weighting is {self.weighting!r} without weights: name the folder that `embed-ops "
                "fit-weights` has written"
            )
        return self

    def _check_output(self, output: OutputSpec) -> None:
        super()._check_output(output)
        if output.layer != -1:
            raise ValueError(
                f"output {output.name!r} asks for layer {output.layer}: word vectors have no layers"
            )


class ImageEncoderSpec(WithImagesSpec):
    """A vector for each image."""

    EMBEDS = ("image",)
    POOLING = OF_IMAGES
    REMARK = "it reads no texts"
    family: Literal["image"] = Field("image", description="an image model")

    def _check_output(self, output: OutputSpec) -> None:
        super()._check_output(output)
        refuse_dim(output)


class ClipEncoderSpec(PromptedSpec, WithImagesSpec):
    """Images and texts in one space."""

    EMBEDS = ("image", "text")
    POOLING = ONLY_AUTO
    family: Literal["clip"] = Field("clip", description="embeds images and texts in one space")

    def _check_output(self, output: OutputSpec) -> None:
        if output.layer != -1:
            raise ValueError(
                f"output {output.name!r} asks for layer {output.layer}: clip has one vector, that of the "
                "shared space"
            )
        super()._check_output(output)
        refuse_dim(output)


class GraphEncoderSpec(EncoderSpec):
    """A vector for each node of a graph."""

    EMBEDS = ("node",)
    POOLING = ONLY_AUTO
    DTYPES = frozenset({"float64"})
    REMARK = "it embeds nodes"
    GPUS = "asked"
    family: Literal["graph"] = Field("graph", description="a graph neural network")

    def _check_output(self, output: OutputSpec) -> None:
        super()._check_output(output)
        refuse_dim(output)
        if output.dtype is not None:
            raise ValueError(
                f"output {output.name!r}: dtype is for texts and images; let a quantize stage follow instead"
            )


AnyEncoder = Annotated[
    Annotated[TextEncoderSpec, Tag("text")]
    | Annotated[WordsEncoderSpec, Tag("words")]
    | Annotated[StaticEncoderSpec, Tag("static")]
    | Annotated[OnnxEncoderSpec, Tag("onnx")]
    | Annotated[KerasEncoderSpec, Tag("keras")]
    | Annotated[TensorflowEncoderSpec, Tag("tensorflow")]
    | Annotated[ImageEncoderSpec, Tag("image")]
    | Annotated[ClipEncoderSpec, Tag("clip")]
    | Annotated[GraphEncoderSpec, Tag("graph")],
    chosen_by("family", "text"),
]
"""What the section may be."""
