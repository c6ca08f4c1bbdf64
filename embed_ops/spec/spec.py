"""The spec: the validated description of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, model_validator

from embed_ops.errors import SpecError
from embed_ops.schema import GRAPH, MESSAGE, REASON, RESERVED
from embed_ops.spec.encoder import AnyEncoder, LanguageEncoderSpec
from embed_ops.spec.encoder_parts import PromptedSpec
from embed_ops.spec.source import AnySource, GraphSourceSpec
from embed_ops.spec.stage import Stages, StageSpec
from embed_ops.spec.toml import parse_words, read_toml
from embed_ops.spec.wording import Section, as_tuple, sentence, variants

_PLURALS = {"image": "images", "text": "texts", "tensor": "tensors"}
"""What a column may hold that is not told by the family, in words."""


class ParitySpec(Section):
    """How close the first rows must be to the reference (cosine)."""

    rows: int = Field(64, ge=0, description="rows compared before the first unit; 0: no comparison")
    min_mean: float = Field(0.9999, le=1.0, description="least mean cosine")
    min: float = Field(0.999, le=1.0, description="least cosine of a row")


class SinkSpec(Section):
    """Where the run directory is."""

    path: str = Field(description="run directory, local or any pyarrow/fsspec address")
    dtype: Literal["float32", "float16"] = Field("float32", description="type of the stored vectors")


class ResourcesSpec(Section):
    """What the job may use."""

    replicas: (
        Literal["auto"] | Annotated[int, Field(gt=0)] | Annotated[tuple[int, int], BeforeValidator(as_tuple)]
    ) = Field("auto", description="copies of the model: n, [min, max], or auto")
    threads_per_replica: Literal["auto"] | Annotated[int, Field(gt=0)] = Field(
        "auto", description="CPU threads of a replica; auto: one, more where units or memory are few"
    )
    engine: Literal["auto", "local", "ray"] = Field(
        "auto",
        description="where the steps run: local (worker processes of this machine), or ray; auto: local "
        "where the work is small and no cluster is named",
    )
    gpus_per_replica: Literal["auto"] | Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        "auto",
        description="GPU share of a replica; auto: 1 where the cluster has GPUs, else 0; for graphs 0",
    )
    unit_rows: int = Field(16_384, gt=0, description="most rows of a unit (commit and resume)")
    token_budget: Literal["auto"] | Annotated[int, Field(gt=0)] = Field(
        "auto", description="padded tokens of one forward pass"
    )
    partitions: Literal["auto"] | Annotated[int, Field(gt=0)] = Field(
        "auto",
        description="graph: ranges of nodes, a task each; auto: by memory and cores. Vectors do not "
        "depend on it",
    )
    hang_seconds: int = Field(
        900,
        gt=0,
        description="a token batch, or a unit's reading, that takes longer has hung: its worker is ended",
    )

    @model_validator(mode="after")
    def _replicas_are_a_range(self) -> Self:
        if isinstance(self.replicas, tuple) and not 0 < self.replicas[0] <= self.replicas[1]:
            raise ValueError(f"replicas = {list(self.replicas)}: give [min, max] with 0 < min <= max")
        return self


class Spec(Section):
    """A run of `embed`."""

    max_reject_fraction: float = Field(
        0.01, ge=0.0, le=1.0, description="more rejects than this share: exit code 1"
    )
    abort_reject_fraction: float = Field(
        0.5, ge=0.0, le=1.0, description="more than this share after 10 units: stop, exit code 3"
    )
    seed: int = Field(0, ge=0, description="of everything that draws; embed draws nothing")
    source: AnySource
    encoder: AnyEncoder
    parity: ParitySpec = ParitySpec()
    sink: SinkSpec
    resources: ResourcesSpec = ResourcesSpec()
    stage: Stages = Field(
        (), description="follow-on stages, run by `postprocess` and `run`; see `embed-ops postprocess --help`"
    )

    @model_validator(mode="before")
    @classmethod
    def _the_source_holds_what_the_encoder_embeds(cls, tree: Any) -> Any:
        """Let the source hold what the encoder embeds.

        Where that is more than one thing, as of clip, a table must say which.
        """
        if not isinstance(tree, Mapping):
            return tree
        source, encoder = tree.get("source"), tree.get("encoder")
        if (
            not isinstance(source, Mapping)
            or not isinstance(encoder, Mapping)
            or "modality" in source
            or source.get("kind") == GRAPH
        ):
            return tree
        kind, family = source.get("kind"), encoder.get("family", "text")
        member = variants(AnyEncoder).get(family) if isinstance(family, str) else None
        takes = [kind for kind in _PLURALS if member is not None and kind in getattr(member, "EMBEDS", ())]
        if kind == "images" or (kind == "webdataset" and "column" not in source):
            takes = ["image"] if "image" in takes else takes[:1]
        if family == "onnx" and len(takes) > 1:
            return tree  # its file tells: texts, unless it is said
        if len(takes) > 1:
            raise ValueError(
                f"source.modality: {family} embeds {_listed([_PLURALS[kind] for kind in takes], 'and')}: say "
                f"which the column holds, {_listed([json.dumps(kind) for kind in takes], 'or')}"
            )
        return {**tree, "source": {**source, "modality": takes[0]}} if takes else tree

    @model_validator(mode="after")
    def _the_encoder_embeds_what_the_source_holds(self) -> Self:
        if self.source.modality not in self.encoder.EMBEDS:
            raise ValueError(
                f"source.modality is {self.source.modality!r}, and family {self.encoder.family!r} embeds "
                "no such thing"
            )
        if isinstance(self.encoder, PromptedSpec):
            self._require_prompts(self.encoder.prompt_columns)
        if not isinstance(self.encoder, LanguageEncoderSpec):
            return self
        if self.source.modality == "words" and self.encoder.prompt:
            raise ValueError("a prompt stands before texts: leave encoder.prompt out with lists of words")
        if (column := self.encoder.targets_column) is not None and column not in self.source.keep:
            raise ValueError(f"encoder.targets_column {column!r} must be among source.keep")
        return self

    def _require_prompts(self, columns: tuple[str, ...]) -> None:
        if columns and self.source.modality != "text":
            raise ValueError(
                f"a prompt stands before texts, and the source holds {self.source.modality}s: "
                "leave encoder.prompt_column out"
            )
        for column in columns:
            if column not in self.source.keep:
                raise ValueError(f"encoder.prompt_column and prompts: {column!r} must be among source.keep")

    @model_validator(mode="after")
    def _gpus_are_for_encoders_that_use_them(self) -> Self:
        asked = self.resources.gpus_per_replica
        if asked != "auto" and asked > 0 and self.encoder.GPUS == "never":
            raise ValueError(
                f"resources.gpus_per_replica is {asked:g}, and family {self.encoder.family!r} computes on "
                "CPUs: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _columns_have_names_of_their_own(self) -> Self:
        outputs, companions = {output.name for output in self.encoder.named}, set(self.encoder.companions)
        if clashing := outputs & companions:
            raise ValueError(
                f"output {min(clashing)!r} has the name of a column that stands beside lists of vectors; "
                "rename it"
            )
        for kept in self.source.keep:
            if kept in (REASON, MESSAGE):
                raise ValueError(
                    f"source.keep: {kept!r} is a name that the table of rejects has for itself; leave it "
                    "out, or rename the column in the source"
                )
            if kept in RESERVED:
                raise ValueError(
                    f"source.keep: {kept!r} is the name of a column that every run writes; leave it out, or "
                    "rename the column in the source"
                )
            if kept in outputs | companions:
                raise ValueError(
                    f"kept column {kept!r} has the name of an output column; rename the output or leave "
                    "it out of keep"
                )
        for name in (outputs | companions) & RESERVED:
            raise ValueError(f"output {name!r} has the name of a column that every run writes; rename it")
        return self

    def graph_source(self) -> GraphSourceSpec:
        """Give the section `source` of a run over a graph.

        Raises:
            SpecError: it is of another kind.
        """
        if not isinstance(self.source, GraphSourceSpec):
            raise SpecError(f"source.kind is {self.source.kind!r}: a graph is needed, nodes and edges")
        return self.source

    @classmethod
    def load(cls, path: str | Path | None = None, words: Iterable[str] = ()) -> Self:
        """Read a TOML file, apply `section.key=value` words over it, and validate.

        Raises:
            SpecError: one sentence per problem, each naming the field.
        """
        return cls.parse(parse_words(words, {} if path is None else read_toml(path)))

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Self:
        """Validate a nested mapping, as `load` does."""
        spec: Self = _validated(cls, tree)
        return spec


def _listed(words: Sequence[str], last: str) -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}"


def _validated(kind: Any, tree: Any, address: str = "") -> Any:
    """Validate what a section is made of.

    Args:
        kind: class of the section, or the union of those that it may be.
        tree: its values.
        address: put in front of each field's name in messages, as `stage.0.`.

    Raises:
        SpecError: one sentence per problem, each naming the field.
    """
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        # A union's members each complain: their sentence is the same and stands once.
        raise SpecError(
            "\n".join(dict.fromkeys(sentence(kind, detail, tree, address) for detail in error.errors()))
        ) from error


def parse_source(tree: Any) -> AnySource:
    """Validate the section `source`.

    Raises:
        SpecError: one sentence per problem, each naming the field.
    """
    source: AnySource = _validated(AnySource, tree, "source.")
    return source


def parse_encoder(tree: Any) -> AnyEncoder:
    """Validate the section `encoder`.

    Raises:
        SpecError: one sentence per problem, each naming the field.
    """
    encoder: AnyEncoder = _validated(AnyEncoder, tree, "encoder.")
    return encoder


def parse_stage(tree: Any, address: str = "") -> StageSpec:
    """Validate the section of one stage.

    Args:
        tree: its fields.
        address: put in front of each field's name in messages, as `stage.0.`.

    Raises:
        SpecError: one sentence per problem, each naming the field.
    """
    stage: StageSpec = _validated(StageSpec, tree, address)
    return stage


def parse_fit(
    path: str | Path | None, words: Iterable[str], kind: Any, section: str = "fit"
) -> tuple[AnySource, Any]:
    """Read the section `source` of a file, and the one of what is fitted, with words over it.

    Other sections are for other verbs. `kind` is the class of what is fitted, or the union of those
    that it may be.

    Raises:
        SpecError: one sentence per problem, each naming the field.
    """
    tree = parse_words(words, {} if path is None else read_toml(path))
    return parse_source(tree.get("source", {})), _validated(kind, tree.get(section, {}), f"{section}.")
