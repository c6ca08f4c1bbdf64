"""The spec: the validated description of a run."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from embed_ops.errors import SpecError
from embed_ops.graph_spec import GRAPH, GraphFields
from embed_ops.schema import RESERVED
from embed_ops.spec_tree import parse_words, read_toml
from embed_ops.stage_spec import KINDS, Stages, StageSpec
from embed_ops.wording import as_tuple, inner_section, sentence

Names = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
AUTO: Final = "auto"
PoolingMode = Literal["auto", "mean", "cls", "max", "last", "weighted_mean", "mean_sqrt_len", "pooler", "patches"]
_POOLING = {
    "text": {"auto", "mean", "cls", "max", "last", "weighted_mean", "mean_sqrt_len"},
    "static": {"auto", "mean"},
    "image": {"auto", "mean", "cls", "max", "pooler", "patches"},
    "clip": {"auto"},
    "graph": {"auto"},
}
_HOLDS = {"text": "text", "static": "text", "image": "image", "graph": "node"}
"""What a family embeds; clip embeds texts and images."""
LAYERS = r"(mean|sum|concat)\(((?:-?\d+)?:(?:-?\d+)?|-?\d+(?:,-?\d+)*)\)"
"""How `layer` names several, without spaces."""
_MOST_PIXELS = 178_956_970
"""Pillow refuses larger images, whatever it is told."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class SourceSpec(GraphFields):
    """Where the rows come from."""

    kind: Literal["parquet", "jsonl", "csv", "text", "images", "webdataset", "graph"] = Field("parquet", description="format of the files")
    path: str | Names = Field(description="folder, glob, file, or a list of them; local or any pyarrow/fsspec address")
    column: str | None = Field(
        None, description="column of texts, or of images (their bytes, a path, or a URI); dotted for a nested field; webdataset: a member"
    )
    modality: Literal["text", "image", "node", "edge"] = Field(
        "text", description="what the column holds; by default what the encoder embeds"
    )
    template: str | None = Field(None, description='several columns in one text: "{title}. {body}"; instead of column')
    keep: Names = Field((), description="source columns copied to the output")
    where: str | None = Field(None, description="SQL condition on the columns; other rows are counted, not embedded")
    limit: int | None = Field(None, gt=0, description="only the first rows of the corpus, in file order")
    types: dict[str, str] = Field({}, description="Arrow types of JSONL or CSV columns that are kept or tested, by name")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="CSV field separator; by default from the name")
    on_change: Literal["error", "re-embed"] = Field("error", description="what to do when a source file has changed since the plan")

    @model_validator(mode="after")
    def _content(self) -> Self:
        if self.kind == "text":
            if self.column or self.template or self.keep:
                raise ValueError("text files have lines, not columns: leave column, template and keep out")
        elif self.kind == "images":
            if self.column or self.template:
                raise ValueError("an image file is one image: leave column and template out")
        elif self.kind == "webdataset":
            if self.template:
                raise ValueError("template is for columns of text: name a member by column instead")
        elif self.kind != GRAPH and (self.column is None) == (self.template is None):
            raise ValueError("name exactly one of column and template")
        return self

    @model_validator(mode="after")
    def _held(self) -> Self:
        if self.modality == "image" and (self.template or self.kind == "text"):
            raise ValueError("there are no images in templates and lines of text: name a column")
        if self.modality == "text" and (self.kind == "images" or (self.kind == "webdataset" and self.column is None)):
            raise ValueError("these are images, and the encoder embeds texts: choose encoder.family image or clip")
        return self

    @model_validator(mode="after")
    def _named(self) -> Self:
        if len(set(self.keep)) < len(self.keep):
            raise ValueError("keep names a column twice")
        if not self.paths or not all(self.paths):
            raise ValueError("path is empty: give a folder, a glob, a file, or a list of them")
        if self.delimiter is not None and self.delimiter in '\r\n"':
            raise ValueError(f"delimiter is {self.delimiter!r}, which ends or quotes fields of every CSV file")
        return self

    @property
    def contents(self) -> str:
        """The column that is embedded, where no template is."""
        return self.column or self.modality

    @property
    def paths(self) -> tuple[str, ...]:
        """The source roots, in order."""
        return (self.path,) if isinstance(self.path, str) else self.path


class OutputSpec(_Section):
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


class EncoderSpec(_Section):
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


class ParitySpec(_Section):
    """How close the first rows must be to the reference (cosine)."""

    rows: int = Field(64, ge=0, description="rows compared before the first unit; 0: no comparison")
    min_mean: float = Field(0.9999, le=1.0, description="least mean cosine")
    min: float = Field(0.999, le=1.0, description="least cosine of a row")


class SinkSpec(_Section):
    """Where the run directory is."""

    path: str = Field(description="run directory, local or any pyarrow/fsspec address")
    dtype: Literal["float32", "float16"] = Field("float32", description="type of the stored vectors")


class ResourcesSpec(_Section):
    """What the job may use."""

    replicas: Literal["auto"] | Annotated[int, Field(gt=0)] | Annotated[tuple[int, int], BeforeValidator(as_tuple)] = Field(
        "auto", description="copies of the model: n, [min, max], or auto"
    )
    threads_per_replica: Literal["auto"] | Annotated[int, Field(gt=0)] = Field(
        "auto", description="CPU threads of a replica; auto: one, more where units or memory are few"
    )
    gpus_per_replica: float = Field(0.0, ge=0.0, le=1.0, description="GPU share of a replica")
    unit_rows: int = Field(16_384, gt=0, description="most rows of a unit (commit and resume)")
    token_budget: Literal["auto"] | Annotated[int, Field(gt=0)] = Field("auto", description="padded tokens of one forward pass")
    partitions: Literal["auto"] | Annotated[int, Field(gt=0)] = Field(
        "auto", description="graph: ranges of nodes, a task each; auto: by memory and cores. Vectors do not depend on it"
    )
    hang_seconds: int = Field(900, gt=0, description="a token batch, or a unit's reading, that takes longer has hung: its worker is ended")

    @model_validator(mode="after")
    def _range(self) -> Self:
        if isinstance(self.replicas, tuple) and not 0 < self.replicas[0] <= self.replicas[1]:
            raise ValueError(f"replicas = {list(self.replicas)}: give [min, max] with 0 < min <= max")
        return self


class Spec(_Section):
    """A run of `embed`."""

    max_reject_fraction: float = Field(0.01, ge=0.0, le=1.0, description="more rejects than this share: exit code 1")
    abort_reject_fraction: float = Field(0.5, ge=0.0, le=1.0, description="more than this share after 10 units: stop, exit code 3")
    seed: int = Field(0, ge=0, description="of everything that draws; embed draws nothing")
    source: SourceSpec
    encoder: EncoderSpec
    parity: ParitySpec = ParitySpec()
    sink: SinkSpec
    resources: ResourcesSpec = ResourcesSpec()
    stage: Stages = Field((), description="follow-on stages, run by `postprocess` and `run`; see `embed-ops postprocess --help`")

    @model_validator(mode="before")
    @classmethod
    def _modality(cls, tree: Any) -> Any:
        """Let the source hold what the encoder embeds; clip embeds both, so a table must say which."""
        if not isinstance(tree, Mapping):
            return tree
        source, encoder = tree.get("source"), tree.get("encoder")
        if not isinstance(source, Mapping) or not isinstance(encoder, Mapping) or "modality" in source or source.get("kind") == GRAPH:
            return tree
        family, images = encoder.get("family", "text"), source.get("kind") == "images"
        if family == "clip" and not images and (source.get("kind") != "webdataset" or "column" in source):
            raise ValueError('source.modality: clip embeds images and texts: say which the column holds, "image" or "text"')
        return {**tree, "source": {**source, "modality": "image"}} if family in ("image", "clip") else tree

    @model_validator(mode="after")
    def _clash(self) -> Self:
        if self.encoder.family != "clip" and self.source.modality != _HOLDS[self.encoder.family]:
            raise ValueError(f"source.modality is {self.source.modality!r}, and family {self.encoder.family!r} embeds no such thing")
        outputs = {output.name for output in self.encoder.outputs} or {OutputSpec().name}
        for kept in self.source.keep:
            if kept in RESERVED or kept in outputs:
                raise ValueError(f"kept column {kept!r} has the name of an output column; rename the output or leave it out of keep")
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
        raise SpecError("\n".join(dict.fromkeys(sentence(model, detail, tree, address) for detail in error.errors()))) from error


def parse_fit(path: str | Path | None, words: Iterable[str], kind: type[_Model]) -> tuple[SourceSpec, _Model]:
    """Read the sections `source` and `fit` of a file, with words over it; other sections are for other verbs.

    Raises:
        SpecError: one sentence per problem, each naming the field.
    """
    tree = parse_words(words, {} if path is None else read_toml(path))
    return _validated(SourceSpec, tree.get("source", {}), "source."), _validated(kind, tree.get("fit", {}), "fit.")


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
            default = "required" if field.is_required() else repr(field.default).replace("'", '"').replace("None", "none")
            rows.append((f"{prefix}{name}", default, field.description or ""))
    return rows
