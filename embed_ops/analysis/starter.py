"""A first spec for data that is there: its lines, each with a comment, and a place for the run."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from embed_ops.analysis.survey import Survey, look
from embed_ops.analysis.tables import counted
from embed_ops.embedding.sink import require_apart, require_free_names
from embed_ops.encoders.keras.files import ENDINGS
from embed_ops.encoders.keras.starting import first_lines
from embed_ops.encoders.optional import require_modality
from embed_ops.encoders.registry import make_encoder
from embed_ops.errors import ModelError, SpecError
from embed_ops.redaction import redacted
from embed_ops.sources.corpus import Corpus
from embed_ops.spec.spec import Spec, parse_encoder
from embed_ops.spec.toml import literal
from embed_ops.storage.location import SCHEME, full_address, locate
from embed_ops.terminal import plain_line, size

_MODELS = {"text": "sentence-transformers/all-MiniLM-L6-v2", "image": "facebook/dinov2-small"}
_FAMILIES: dict[str, tuple[str, ...]] = {
    "text": ("clip", "text", "onnx", "static", "tensorflow"),
    "image": ("clip", "image", "onnx", "keras", "tensorflow"),
    "tensor": ("keras", "tensorflow"),
}
"""Families that embed a modality. The first that takes a model's folder is its own: `clip` takes
none but its own, and the others would take a part of it."""
_SEVERAL = ("clip", "keras", "tensorflow")
"""Families that embed more than one thing: which one is said."""
_TYPES = (
    "# Left out, the type is chosen: bfloat16 where the device gains by it and the first rows stay",
    "# close to the reference.",
    '# dtype = "float32"',
)
SINK, _HIDDEN_SINK = "embedded", "_embedded"
_MOST_RUNS = 100
_LEAST_K, _MOST_K, _K_OF_UNKNOWN = 2, 1_000, 100


@dataclass(frozen=True)
class Starter:
    """A spec for data.

    Attributes:
        survey: what was found.
        model: its name or folder; `family`: of that.
        sink: run directory.
        encoder: further lines of the section `encoder`.
    """

    survey: Survey
    model: str
    family: str
    sink: str
    encoder: tuple[str, ...] = ()

    def text(self, path: str) -> str:
        """Write it as TOML with comments; names that stand in comments are one line too.

        `path`: the file that it will stand in.
        """
        named = plain_line(path)
        survey, k = self.survey, _clusters(_about_rows(self.survey))
        label = [f'# label = "{name}"' for name in survey.keep if name.lower() in ("label", "class")]
        lines = [
            f"# {counted(survey.files, 'file')} of kind {survey.kind}, {size(survey.size)}. Look first, "
            "embed, look at the result:",
            "#",
            f"#   embed-ops plan {named} --price 1.2      # what it will take, for machines at 1.2 an hour",
            f"#   embed-ops embed {named}                 # the same command again goes on after any stop",
            f"#   embed-ops report {plain_line(self.sink)}",
            "",
            "[source]",
            f"kind = {literal(survey.kind)}",
            *_source_lines(survey, self.family),
            "",
            "[encoder]",
            *([f"family = {literal(self.family)}"] if self.family != "text" else []),
            f"model = {literal(self.model)}      # a hub name, a folder, or an object store prefix",
            *(self.encoder or _TYPES),
            "",
            "[sink]",
            f"path = {literal(self.sink)}      # data/ is partitioned like the source",
            '# dtype = "float16"      # half the bytes',
            "",
            f"# Stages follow with `embed-ops run {named}`, or later with `embed-ops postprocess {named}`.",
            "# [[stage]]",
            '# kind = "kmeans"',
            f"# k = {k}",
            *label,
            "",
        ]
        return "\n".join(lines)


def _source_lines(survey: Survey, family: str) -> Iterator[str]:
    """Word what is read, what is embedded, and what is kept."""
    places = [redacted(full_address(path) if "://" not in path else path) for path in survey.paths]
    without = f"      # without the runs in it: {plain_line(', '.join(survey.runs))}" if survey.runs else ""
    yield f"path = {literal(places if len(places) > 1 else places[0])}{without}"
    if survey.column is not None:
        what = "images" if survey.modality == "image" else "lists of numbers"
        if survey.mean_length is not None:
            what = f"texts of {survey.mean_length:,.0f} characters on average"
        others = plain_line(", ".join(survey.others) or "none")
        yield f"column = {literal(survey.column)}      # {what}; other columns: {others}"
    several = family in _SEVERAL or (family, survey.modality) == ("onnx", "image")
    if several and survey.kind != "images":
        yield f"modality = {literal(survey.modality)}"
    if survey.column is not None or survey.keep:
        of_images = "the folder that an image is in; " if survey.kind == "images" else ""
        yield f"keep = {literal(list(survey.keep))}      # {of_images}stand beside the vectors in the output"
    if survey.column is not None:
        remark = "a condition in SQL; other rows are counted, not embedded"
        yield f"# where = {_condition(survey)}      # {remark}"


def _condition(survey: Survey) -> str:
    """Word a condition on the column that is embedded, as TOML in one line."""
    quoted = f'"{survey.column}"' if not str(survey.column).isidentifier() else str(survey.column)
    test = f"length({quoted}) > 0" if survey.modality == "text" else f"{quoted} is not null"
    return literal(test)


def _about_rows(survey: Survey) -> int | None:
    """Give the rows, or the most that there can be where only reading would tell."""
    if survey.rows is None and survey.mean_length:
        return round(survey.size / survey.mean_length)
    return survey.rows


def _clusters(rows: int | None) -> int:
    """Suggest a number of clusters: about the square root of half the rows."""
    if rows is None:
        return _K_OF_UNKNOWN
    return min(max(_LEAST_K, round(math.sqrt(rows / 2))), _MOST_K)


def starter(path: str, *, model: str | None = None, sink: str | None = None) -> Starter:
    """Look at the data at a path, and choose what its spec says.

    Args:
        path: folder, file or glob; local or any pyarrow/fsspec address.
        model: by default a small one that suits the data; of a folder the family is told.
        sink: run directory; by default a new one here, or beside the data where these are here.

    Raises:
        SourceError: there is nothing that can be embedded.
        ModelError: the model's folder is of no family that embeds such data.
        SpecError: what was found makes no spec, or the run directory lies inside the data.
    """
    survey = look(path)
    if model is None and survey.modality not in _MODELS:
        raise ModelError(
            f"{path}: column {survey.column!r} holds lists of numbers, which no model takes by itself: name "
            "your own by --model"
        )
    family, lines = (survey.modality, ()) if model is None else _family(model, survey.modality)
    chosen = _MODELS[survey.modality] if model is None else _anchored(model)
    refused: SpecError | None = None
    for place in _places(path) if sink is None else [sink]:
        found = Starter(survey, chosen, family, place, lines)
        try:
            _check(found)
        except SpecError as error:
            refused = refused or error
        else:
            return found
    raise refused or SpecError(f"{path}: no free name for a run directory here; name one by --sink")


def _is_folder(model: str) -> bool:
    """Tell whether a model's name is that of a folder here, or is written like one."""
    return not SCHEME.match(model) and (model.startswith((".", "/", "~")) or Path(model).exists())


def _anchored(model: str) -> str:
    return full_address(model) if _is_folder(model) else model


def _family(model: str, modality: str) -> tuple[str, tuple[str, ...]]:
    """Tell the family of a model's folder, and what else a spec says of it.

    Of a hub name or an object store it is that of the data.

    Raises:
        ModelError: there is no folder, or it holds no model of such data.
    """
    if not _is_folder(model):
        if modality not in _MODELS:
            raise ModelError(f"--model {model}: name a folder or file that is here: the data are {modality}s")
        return modality, ()
    refused: dict[str, str] = {}
    for family in _FAMILIES[modality]:
        try:
            if family == "keras":
                return family, first_lines(model, modality)
            require_modality(make_encoder(parse_encoder({"family": family, "model": model})), model, modality)
        except ModelError as error:
            refused[family] = str(error)
        else:
            return family, ()
    ending = "keras" if model.endswith(ENDINGS) else Path(model).suffix.removeprefix(".")
    if (Path(model).expanduser() / "saved_model.pb").is_file():
        ending = "tensorflow"
    own = ending if ending in refused else modality
    why = refused.get(own) or next(iter(refused.values()), "no family takes them")
    raise ModelError(f"--model {model}: holds no model that embeds {modality}s: {why}")


def _places(path: str) -> Iterator[str]:
    """Name run directories that are not there yet.

    In this folder, beside the data, and last one that is left out of any folder's files.
    """
    names = [SINK, *(f"{SINK}-{number}" for number in range(2, _MOST_RUNS))]
    yield from (name for name in names if not Path(name).exists())
    if not SCHEME.match(path):
        root = Path(full_address(path)).resolve()
        if os.access(root.parent, os.W_OK):
            yield from (beside for name in names if not Path(beside := f"{root}-{name}").exists())
    if not Path(_HIDDEN_SINK).exists():
        yield _HIDDEN_SINK


def _check(chosen: Starter) -> None:
    """Refuse to hand out a spec that the other commands would refuse."""
    try:
        spec = Spec.parse(tomllib.loads(chosen.text("embed.toml")))
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"a name in the data, or the path, can't stand in a TOML file: {error}") from error
    corpus = Corpus.open(spec.source)
    # Here data and a store's run lie apart, and the store need not be asked.
    if not SCHEME.match(spec.sink.path) or any(map(SCHEME.match, spec.source.paths)):
        require_apart(spec, locate(spec.sink.path), [corpus])
    require_free_names(spec, corpus)


def write_starter(path: str, output: str, *, model: str | None = None, sink: str | None = None) -> Starter:
    """Write a starter spec to a new file.

    Raises:
        SpecError: the file is there already.
        SourceError, ModelError: as `starter`.
    """
    target = Path(output).expanduser()
    if target.exists():
        raise SpecError(f"{target}: is there already; name another file by --output")
    chosen = starter(path, model=model, sink=sink)
    temporary = target.with_name(f".{target.name}")
    temporary.write_text(chosen.text(output), encoding="utf-8")
    temporary.replace(target)
    return chosen
