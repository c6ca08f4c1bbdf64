"""A prompt for each row: what its own columns say is put beside its text.

What is embedded of such a row is a struct of `prompt` and `text`; encoders that have prompts take
it in the place of a text. A prompt may still be the name of one of the model's own.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from embed_ops.encoders.text.prompts import PROMPT, TEXT
from embed_ops.errors import SourceError
from embed_ops.schema import CONTENT, MESSAGE, REASON, Reason
from embed_ops.spec.encoder import EncoderSpec
from embed_ops.spec.encoder_parts import PromptedSpec
from embed_ops.spec.templates import parts_of

_SHOWN = 80
"""Characters of an unknown prompt that a message shows."""


def with_prompts(table: pa.Table, spec: EncoderSpec) -> pa.Table:
    """Put the prompt of each row beside its text, where the spec names a column for it.

    A row whose prompt is null or unknown becomes a reject. Tables of other specs are given back.

    Args:
        table: kept columns, `_content` (texts), `reason`, `message`.
        spec: of the encoder.

    Raises:
        SourceError: a column holds nothing that can stand in a text.
    """
    if not isinstance(spec, PromptedSpec) or spec.prompt_column is None:
        return table
    names = _texts(table, spec.prompt_column)
    prompts = names
    if spec.prompts:
        prompts = pa.nulls(len(table), pa.string())
        for name, template in spec.prompts.items():
            meant = pc.fill_null(pc.equal(names, name), False)
            prompts = pc.if_else(meant, _filled(template, table), prompts)
    texts = table.column(CONTENT).combine_chunks()
    pairs = pa.StructArray.from_arrays([prompts, texts], [PROMPT, TEXT], mask=texts.is_null())
    lacking = pc.and_(prompts.is_null(), table.column(REASON).combine_chunks().is_null())
    if pc.any(lacking).as_py():
        table = _rejected(table, lacking, *_why(names, spec))
    return table.set_column(table.schema.get_field_index(CONTENT), CONTENT, pairs)


def _why(names: pa.Array, spec: PromptedSpec) -> tuple[pa.Array, pa.Array]:
    """Say of rows why they would have no prompt: reasons and messages, (rows,)."""
    known = pc.is_in(names, pa.array(list(spec.prompts), pa.string()))
    unknown = pc.and_(names.is_valid(), pc.invert(known))
    named = pc.binary_join_element_wise(
        f"column {spec.prompt_column} holds '",
        pc.utf8_slice_codeunits(names, 0, _SHOWN),
        f"', and prompts has {', '.join(spec.prompts)}",
        "",
    )
    of_column = f"column {spec.prompt_column}, which chooses the prompt, is null"
    nulls = pc.if_else(names.is_null(), of_column, "a column in its prompt is null")
    return pc.if_else(unknown, Reason.UNKNOWN_PROMPT.value, Reason.NULL.value), pc.if_else(
        unknown, named, nulls
    )


def _rejected(table: pa.Table, rows: pa.Array, reasons: pa.Array, messages: pa.Array) -> pa.Table:
    """Make rejects of rows, (rows,) bool."""
    for name, given in ((REASON, reasons), (MESSAGE, messages)):
        column = pc.if_else(rows, given, table.column(name).combine_chunks())
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _filled(template: str, table: pa.Table) -> pa.Array | pa.Scalar:
    """Fill a prompt: one text, or one a row; null where a column of it is."""
    parts: list[pa.Array | str] = []
    for literal, name in parts_of(template):
        parts += [literal] if literal else []
        parts += [] if name is None else [_texts(table, name)]
    if all(isinstance(part, str) for part in parts):
        return pa.scalar("".join(map(str, parts)), pa.string())
    return pc.binary_join_element_wise(*parts, "", null_handling="emit_null")


def _texts(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(
            f"column {name!r} is {column.type}, which can't stand in a prompt; give one of texts or numbers"
        ) from error
