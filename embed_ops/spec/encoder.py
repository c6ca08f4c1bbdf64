"""The section `[encoder]` of the spec: the model, and the vectors that it gives."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from embed_ops.spec.wording import Names, Section, as_tuple

AUTO: Final = "auto"
PoolingMode = Literal[
    "auto", "mean", "cls", "max", "first", "last", "weighted_mean", "mean_sqrt_len", "pooler", "patches"
]
_OF_TEXTS = {"auto", "mean", "cls", "max", "last", "weighted_mean", "mean_sqrt_len"}
_OF_PARTS = {"auto", "mean", "first", "last", "max"}
_POOLING = {
    "text": _OF_TEXTS,
    "words": _OF_TEXTS,
    "static": {"auto", "mean"},
    "image": {"auto", "mean", "cls", "max", "pooler", "patches"},
    "clip": {"auto"},
    "graph": {"auto"},
}
LAYERS = r"(mean|sum|concat)\(((?:-?\d+)?:(?:-?\d+)?|-?\d+(?:,-?\d+)*)\)"
"""How `layer` names several, without spaces."""
_MOST_PIXELS = 178_956_970
"""Pillow refuses larger images, whatever it is told."""


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

    name: str = Field("embedding", min_length=1, description="column name")
    pooling: PoolingMode = Field(
        "auto",
        description="how the vectors of tokens or patches become one; auto: mean, or what an image model has",
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
    def _codes(self) -> Self:
        if (self.quantizer is not None) != (self.dtype in ("int8", "uint8")):
            raise ValueError(
                f"output {self.name!r}: dtype int8 or uint8 and quantizer (the run of a quantize stage) "
                "go together; "
                f"found dtype {self.dtype!r}, quantizer {self.quantizer!r}"
            )
        if isinstance(self.layer, str) and not re.fullmatch(LAYERS, self.layer.replace(" ", "")):
            raise ValueError(
                f'output {self.name!r}: layer {self.layer!r} is no number and none of "mean(-4:)", '
                '"sum(1,2)", "concat(-4:)"'
            )
        return self


class EncoderSpec(Section):
    """The model."""

    family: Literal["text", "words", "static", "image", "clip", "graph"] = Field(
        "text",
        description="kind of model; words: a vector for each word; static: means of word vectors; "
        "clip embeds images and texts in one space",
    )
    model: str = Field(description="folder, object store prefix, or hub name")
    revision: str | None = Field(
        None, description="hub branch, tag or commit; of a prefix, the digest of its listing"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = Field(
        "auto",
        description="compute type; auto: the fastest that keeps [parity]; float32 is exact; float64: "
        "graphs only",
    )
    compile: Literal["auto"] | bool = Field(
        "auto", description="compile the forward pass; auto: where the work repays it"
    )
    max_tokens: int | None = Field(
        None, gt=0, description="cut longer rows here; by default the model's own limit"
    )
    prompt: str | None = Field(
        None, description="text before every row, or the name of one of the model's prompts"
    )
    window: int | None = Field(
        None,
        gt=0,
        description="texts of more tokens, special ones included, go through the model in overlapping "
        "windows, and none is cut; "
        "by default for lists of vectors, of the model's own limit",
    )
    stride: int | None = Field(
        None, gt=0, description="tokens from one window to the next; by default half a window"
    )
    chunk: int | None = Field(
        None, gt=0, description='tokens of a chunk, for outputs with each = "chunk" (late chunking)'
    )
    targets: Names = Field(
        (), description="words to keep the vectors of, whatever their case; by default all"
    )
    targets_column: str | None = Field(
        None, description="kept column with the words to keep of each row: one, or a list"
    )
    lowercase: Literal["auto"] | bool = Field(
        "auto",
        description="family static: lower texts before words are looked up; auto: where the table has no "
        "capital letters",
    )
    weights: str | None = Field(
        None, description="family static: folder that `fit-weights` has written; left out: a plain mean"
    )
    weighting: Literal["sif", "tfidf"] = Field(
        "sif", description="family static: what the weights make of a word"
    )
    max_pixels: int = Field(
        89_478_485,
        gt=0,
        le=_MOST_PIXELS,
        description="a larger image is a reject; the default is Pillow's own limit",
    )
    draft: Literal["auto"] | bool = Field(
        "auto",
        description="let the JPEG decoder shrink large photographs; auto: where dtype is not float32 "
        "either and [parity] is kept",
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
        self._check_windows()
        if self.family == "static" and (
            self.prompt is not None or self.max_tokens is not None or self.compile is True
        ):
            raise ValueError(
                "family static takes whole texts as they are, word by word: leave prompt, max_tokens and "
                "compile out"
            )
        if self.family == "static" and self.dtype not in (AUTO, "float32"):
            raise ValueError(
                f"family static computes in float32, not in {self.dtype}; sink.dtype or an output's "
                "dtype stores less"
            )
        if (self.lowercase, self.weights, self.weighting) != (AUTO, None, "sif") and self.family != "static":
            raise ValueError(
                "lowercase, weights and weighting are for family static: leave them out with family "
                f"{self.family}"
            )
        if self.weighting != "sif" and self.weights is None:
            raise ValueError(
                f"weighting is {self.weighting!r} without weights: name the folder that `embed-ops "
                "fit-weights` has written"
            )
        if self.family in ("image", "graph") and (self.prompt is not None or self.max_tokens is not None):
            raise ValueError(f"prompt and max_tokens are for texts: leave them out with family {self.family}")
        if (self.dtype == "float64") != (
            self.dtype != "float32" and self.family == "graph" and self.dtype != AUTO
        ):
            raise ValueError(f"family {self.family} does not compute in {self.dtype}")
        return self

    def _check_output(self, output: OutputSpec) -> None:
        of_texts, each = self.family in ("text", "words"), self.each(output)
        known = (
            {"auto"} if each == "token" else _OF_PARTS if each in ("word", "chunk") else _POOLING[self.family]
        )
        if not of_texts and each != "row":
            raise ValueError(
                f"output {output.name!r}: each = {each!r} is for families text and words; {self.family} "
                "has one vector a row"
            )
        if output.pooling not in known:
            what = f"family {self.family!r}" if each == "row" else f"each = {each!r}"
            raise ValueError(f"pooling {output.pooling!r} is none of {what}: {', '.join(sorted(known))}")
        if self.family == "clip" and output.layer != -1:
            raise ValueError(
                f"output {output.name!r} asks for layer {output.layer}: clip has one vector, that of the "
                "shared space"
            )
        if isinstance(output.layer, str) and not of_texts:
            raise ValueError(
                f"output {output.name!r}: several layers in one vector are for family text; name an "
                "output for each layer"
            )
        if output.layer != -1 and self.compile is True:
            raise ValueError(
                f"output {output.name!r} asks for layer {output.layer}: a compiled model gives its "
                "output only; leave compile out"
            )
        if output.layer != -1 and self.family == "static":
            raise ValueError(
                f"output {output.name!r} asks for layer {output.layer}: word vectors have no layers"
            )
        if output.dim is not None and not of_texts and self.family != "static":
            raise ValueError(
                f"output {output.name!r}: dim is for families text and static; let a truncate stage "
                "follow instead"
            )
        if output.dtype is not None and self.family == "graph":
            raise ValueError(
                f"output {output.name!r}: dtype is for texts and images; let a quantize stage follow instead"
            )

    def _check_windows(self) -> None:
        kinds = {self.each(output) for output in self.named}
        if self.family not in ("text", "words") and (
            self.window or self.stride or self.chunk or self.targets or self.targets_column
        ):
            raise ValueError(
                "window, stride, chunk and targets are for families text and words: leave them out with "
                f"{self.family}"
            )
        if ("chunk" in kinds) != (self.chunk is not None):
            raise ValueError(
                'chunk (tokens) and an output with each = "chunk" go together: give both or none'
            )
        if self.stride is not None and not self.in_windows:
            raise ValueError("stride says how far windows lie apart: give window too")
        if self.in_windows and self.max_tokens is not None:
            raise ValueError(
                "max_tokens cuts texts, and windows are there so that none is cut: give window instead"
            )
        if (self.targets or self.targets_column) and "word" not in kinds:
            raise ValueError(
                'targets choose words: give an output with each = "word", as family words has by itself'
            )
        if self.targets and self.targets_column:
            raise ValueError("give targets or targets_column, not both")

    def each(self, output: OutputSpec) -> str:
        """Say what an output has a vector for: a row, word, token, window or chunk."""
        return ("word" if self.family == "words" else "row") if output.each == AUTO else output.each

    @property
    def named(self) -> tuple[OutputSpec, ...]:
        """The outputs, the one that stands where none is named too."""
        return self.outputs or (OutputSpec(),)

    @property
    def in_windows(self) -> bool:
        """Whether texts go through the model in windows.

        Where that is asked for, or rows have lists of vectors.
        """
        return self.window is not None or any(self.each(output) != "row" for output in self.named)

    @property
    def companions(self) -> tuple[str, ...]:
        """Name the columns beside outputs that are lists."""
        return tuple(
            name for kind in dict.fromkeys(map(self.each, self.named)) for name in COMPANIONS.get(kind, ())
        )
