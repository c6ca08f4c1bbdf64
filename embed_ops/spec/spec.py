"""The spec: the validated description of a run."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from embed_ops.errors import SpecError
from embed_ops.schema import GRAPH, RESERVED
from embed_ops.spec.encoder import EncoderSpec
from embed_ops.spec.source import SourceSpec
from embed_ops.spec.stage import KINDS, Stages, StageSpec
from embed_ops.spec.toml import parse_words, read_toml
from embed_ops.spec.wording import Section, as_tuple, inner_section, sentence

_HOLDS = {
    "text": ("text",),
    "words": ("text", "words"),
    "static": ("text",),
    "image": ("image",),
    "clip": ("image", "text"),
    "graph": ("node",),
}
"""What a family embeds."""


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
    gpus_per_replica: float = Field(0.0, ge=0.0, le=1.0, description="GPU share of a replica")
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
    def _range(self) -> Self:
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
    source: SourceSpec
    encoder: EncoderSpec
    parity: ParitySpec = ParitySpec()
    sink: SinkSpec
    resources: ResourcesSpec = ResourcesSpec()
    stage: Stages = Field(
        (), description="follow-on stages, run by `postprocess` and `run`; see `embed-ops postprocess --help`"
    )

    @model_validator(mode="before")
    @classmethod
    def _modality(cls, tree: Any) -> Any:
        """Let the source hold what the encoder embeds.

        Clip embeds both, so a table must say which.
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
        family, images = encoder.get("family", "text"), source.get("kind") == "images"
        if family == "clip" and not images and (source.get("kind") != "webdataset" or "column" in source):
            raise ValueError(
                'source.modality: clip embeds images and texts: say which the column holds, "image" or "text"'
            )
        return {**tree, "source": {**source, "modality": "image"}} if family in ("image", "clip") else tree

    @model_validator(mode="after")
    def _clash(self) -> Self:
        if self.source.modality not in _HOLDS[self.encoder.family]:
            raise ValueError(
                f"source.modality is {self.source.modality!r}, and family {self.encoder.family!r} embeds "
                "no such thing"
            )
        if self.source.modality == "words" and self.encoder.prompt:
            raise ValueError("a prompt stands before texts: leave encoder.prompt out with lists of words")
        outputs = {output.name for output in self.encoder.named}
        if clashing := outputs & set(self.encoder.companions):
            raise ValueError(
                f"output {min(clashing)!r} has the name of a column that stands beside lists of vectors; "
                "rename it"
            )
        outputs |= set(self.encoder.companions)
        if (column := self.encoder.targets_column) is not None and column not in self.source.keep:
            raise ValueError(f"encoder.targets_column {column!r} must be among source.keep")
        for kept in self.source.keep:
            if kept in RESERVED or kept in outputs:
                raise ValueError(
                    f"kept column {kept!r} has the name of an output column; rename the output or leave "
                    "it out of keep"
                )
        for name in outputs & RESERVED:
            raise ValueError(f"output {name!r} has the name of a column that every run writes; rename it")
        return self

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
        values = dict(tree)
        if isinstance(listed := values.get("stage"), list):
            values["stage"] = tuple(parse_stage(item, f"stage.{place}.") for place, item in enumerate(listed))
        return _validated(cls, values, "")


_Model = TypeVar("_Model", bound=BaseModel)


def _validated(model: type[_Model], tree: Mapping[str, Any], address: str) -> _Model:
    try:
        return model.model_validate(dict(tree))
    except ValidationError as error:
        # A union's members each complain: their sentence is the same and stands once.
        raise SpecError(
            "\n".join(dict.fromkeys(sentence(model, detail, tree, address) for detail in error.errors()))
        ) from error


def parse_fit(
    path: str | Path | None, words: Iterable[str], kind: type[_Model], section: str = "fit"
) -> tuple[SourceSpec, _Model]:
    """Read the section `source` of a file, and the one of what is fitted, with words over it.

    Other sections are for other verbs.

    Raises:
        SpecError: one sentence per problem, each naming the field.
    """
    tree = parse_words(words, {} if path is None else read_toml(path))
    return _validated(SourceSpec, tree.get("source", {}), "source."), _validated(
        kind, tree.get(section, {}), f"{section}."
    )


def parse_stage(tree: Any, address: str = "") -> StageSpec:
    """Validate the section of one stage.

    Args:
        tree: its fields.
        address: put in front of each field's name in messages, as `stage.0.`.

    Raises:
        SpecError: one sentence per problem, each naming the field.
    """
    if not isinstance(tree, Mapping):
        raise SpecError(f"{address.rstrip('.') or 'stage'}: expected a section, found {tree!r}")
    kind = tree.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        near = difflib.get_close_matches(str(kind), list(KINDS), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"kinds: {', '.join(KINDS)}"
        found = "required and not given" if kind is None else f"no stage is called {kind!r}"
        raise SpecError(f"{address}kind: {found}; {hint}")
    stage: StageSpec = _validated(KINDS[kind], tree, address)
    return stage


def fields(model: type[BaseModel] = Spec, prefix: str = "") -> list[tuple[str, str, str]]:
    """List every field of the spec as (address, default, meaning): the help of the verbs."""
    rows = []
    for name, field in model.model_fields.items():
        inner = inner_section(model, name)
        if inner is not model:
            item = ".0" if getattr(field.annotation, "__args__", ()) else ""
            rows += fields(inner, f"{prefix}{name}{item}.")
        else:
            default = (
                "required"
                if field.is_required()
                else repr(field.default).replace("'", '"').replace("None", "none")
            )
            rows.append((f"{prefix}{name}", default, field.description or ""))
    return rows
