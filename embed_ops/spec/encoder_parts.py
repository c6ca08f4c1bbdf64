"""What several families of encoders have in the spec, and what is asked of any of them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from embed_ops.spec.output import AUTO, COMPANIONS, OutputSpec
from embed_ops.spec.templates import fields_of
from embed_ops.spec.wording import Variant, as_tuple

OF_TEXTS = frozenset({"auto", "mean", "cls", "max", "last", "weighted_mean", "mean_sqrt_len"})
OF_IMAGES = frozenset({"auto", "mean", "cls", "max", "pooler", "patches"})
ONLY_AUTO = frozenset({"auto"})
MAX_PIXELS = 89_478_485
"""Pillow's own limit."""
_MOST_PIXELS = 178_956_970
"""Pillow refuses larger images, whatever it is told."""


class EncoderSpec(Variant):
    """What every family has.

    Attributes:
        EMBEDS: what a source may hold for it, as `source.modality`.
        POOLING: ways to make one vector of many that it knows.
        DTYPES: compute types beside "auto" and "float32".
        GPUS: whether it computes on them: always where there are some, only where the spec asks
            for it, or never.
        RUNTIME: package that computes in torch's place, whose version decides bytes.
    """

    CHOICE = "family"
    NOUN = "family"
    EMBEDS: ClassVar[tuple[str, ...]]
    POOLING: ClassVar[frozenset[str]]
    DTYPES: ClassVar[frozenset[str]] = frozenset({"bfloat16", "float16"})
    GPUS: ClassVar[Literal["always", "asked", "never"]] = "always"
    RUNTIME: ClassVar[str | None] = None

    family: str = Field(description="kind of model")
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
    outputs: Annotated[tuple[OutputSpec, ...], BeforeValidator(as_tuple)] = Field(
        (), description="vector columns; left out: the model's own modules, else mean"
    )
    trust_remote_code: bool = Field(False, description="run Python code that comes with the model")

    @model_validator(mode="after")
    def _outputs_have_names_of_their_own(self) -> Self:
        names = [output.name for output in self.outputs]
        if len(set(names)) < len(names):
            raise ValueError("two outputs have the same name")
        return self

    @model_validator(mode="after")
    def _the_family_gives_the_outputs(self) -> Self:
        for output in self.outputs:
            if output.tensor is not None and self.RUNTIME is None:
                raise ValueError(
                    f"output {output.name!r}: tensor is for models that are files as they are, as family "
                    f"onnx; {self.family} has layers by number"
                )
            self._check_output(output)
        return self

    @model_validator(mode="after")
    def _the_family_computes_in_dtype(self) -> Self:
        known = ("float32", *sorted(self.DTYPES))
        if self.dtype not in (AUTO, *known):
            raise ValueError(
                f"family {self.family} computes in {' or '.join(known)}, not in {self.dtype}; "
                "sink.dtype stores less"
            )
        return self

    def _check_output(self, output: OutputSpec) -> None:
        """Refuse an output that the family can't give.

        Raises:
            ValueError: says which and why.
        """
        if output.each not in (AUTO, "row"):
            raise ValueError(
                f"output {output.name!r}: each = {output.each!r} is for families text and words; "
                f"{self.family} has one vector a row"
            )
        if isinstance(output.layer, str):
            raise ValueError(
                f"output {output.name!r}: several layers in one vector are for family text; name an "
                "output for each layer"
            )
        self._check_pooling(output, f"family {self.family!r}", self.POOLING)

    def _check_pooling(self, output: OutputSpec, what: str, known: frozenset[str]) -> None:
        if output.pooling not in known:
            raise ValueError(f"pooling {output.pooling!r} is none of {what}: {', '.join(sorted(known))}")
        if output.layer != -1 and self.compile is True:
            raise ValueError(
                f"output {output.name!r} asks for layer {output.layer}: a compiled model gives its "
                "output only; leave compile out"
            )

    def each(self, output: OutputSpec) -> str:
        """Say what an output has a vector for: a row, word, token, window or chunk."""
        return "row" if output.each == AUTO else output.each

    @property
    def named(self) -> tuple[OutputSpec, ...]:
        """The outputs, the one that stands where none is named too."""
        return self.outputs or (OutputSpec(),)

    @property
    def in_windows(self) -> bool:
        """Whether texts go through the model in windows."""
        return False

    @property
    def companions(self) -> tuple[str, ...]:
        """Name the columns beside outputs that are lists."""
        return tuple(
            name for kind in dict.fromkeys(map(self.each, self.named)) for name in COMPANIONS.get(kind, ())
        )

    @property
    def drafts(self) -> Literal["auto"] | bool:
        """Whether the JPEG decoder may shrink photographs; "auto" where there are none."""
        return AUTO

    def drafting(self, draft: bool) -> Self:
        """Give the same section with `draft` settled, where the family has images."""
        return self


class PromptedSpec(EncoderSpec):
    """A family whose texts are cut, and have a prompt before them."""

    max_tokens: int | None = Field(
        None, gt=0, description="cut longer rows here; by default the model's own limit"
    )
    prompt: str | None = Field(
        None, description="text before every row, or the name of one of the model's prompts"
    )
    prompt_column: str | None = Field(
        None, description="kept column with the prompt of each row, or its name in prompts"
    )
    prompts: dict[str, str] = Field(
        {},
        description="what may stand in prompt_column, and the prompt that it means: a text, with kept "
        "columns in braces, or the name of one of the model's prompts",
    )

    @model_validator(mode="after")
    def _a_row_has_one_prompt(self) -> Self:
        if self.prompts and self.prompt_column is None:
            raise ValueError("prompts are chosen by a column: name it by prompt_column")
        if self.prompt_column is not None and self.prompt is not None:
            raise ValueError("give prompt, for every row, or prompt_column, not both")
        for name, prompt in self.prompts.items():
            try:
                fields_of(prompt)
            except ValueError as error:
                raise ValueError(f"prompts.{name}: {error}") from error
        return self

    @property
    def prompt_columns(self) -> tuple[str, ...]:
        """Name the columns that prompts of rows come from; none where all rows have the same."""
        fields = (name for prompt in self.prompts.values() for name in fields_of(prompt))
        return () if self.prompt_column is None else tuple(dict.fromkeys((self.prompt_column, *fields)))


class WithImagesSpec(EncoderSpec):
    """A family that embeds images."""

    max_pixels: int = Field(
        MAX_PIXELS,
        gt=0,
        le=_MOST_PIXELS,
        description="a larger image is a reject; the default is Pillow's own limit",
    )
    draft: Literal["auto"] | bool = Field(
        "auto",
        description="let the JPEG decoder shrink large photographs; auto: where dtype is not float32 "
        "either and [parity] is kept",
    )

    @property
    def drafts(self) -> Literal["auto"] | bool:
        """Whether the JPEG decoder may shrink photographs."""
        return self.draft

    def drafting(self, draft: bool) -> Self:
        """Give the same section with `draft` settled."""
        return self.model_copy(update={"draft": draft})


def refuse_dim(output: OutputSpec) -> None:
    """Refuse an output with fewer dimensions than the model gives.

    Raises:
        ValueError: names the output.
    """
    if output.dim is not None:
        raise ValueError(
            f"output {output.name!r}: dim is for families text and static; let a truncate stage "
            "follow instead"
        )
