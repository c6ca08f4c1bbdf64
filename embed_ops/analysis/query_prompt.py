"""The prompt before a query, which is often another than that before the rows."""

from __future__ import annotations

from embed_ops.errors import SpecError
from embed_ops.spec.encoder_parts import EncoderSpec, PromptedSpec
from embed_ops.spec.templates import parts_of

_QUERY = "query"
"""The name that models and people give to the prompt of a query."""


def for_queries(spec: EncoderSpec, prompt: str | None, *, texts: bool) -> EncoderSpec:
    """Give the section of a run's encoder as its queries ask for it.

    Args:
        spec: of the run.
        prompt: a name in `prompts`, a text, or the name of one of the model's prompts; left out,
            that of the run, or of rows with prompts of their own the one that is named "query".
        texts: queries are texts.

    Raises:
        SpecError: the family takes no prompts, or there is none to choose.
    """
    if not isinstance(spec, PromptedSpec):
        if prompt is not None:
            raise SpecError(f"prompt: models of family {spec.family} take none; leave it out")
        return spec
    if not texts or (prompt is None and spec.prompt_column is None):
        return spec
    if prompt is None and _QUERY not in spec.prompts:
        named = f": one of {', '.join(spec.prompts)}, or a text" if spec.prompts else ""
        raise SpecError(
            f"prompt: each row of the run has its own (column {spec.prompt_column}), and nothing says what "
            f"stands before a query; give one{named}"
        )
    asked = _QUERY if prompt is None else prompt
    if asked in spec.prompts:
        parts = parts_of(spec.prompts[asked])
        if any(name is not None for _, name in parts):
            raise SpecError(
                f"prompt: {asked!r} is {spec.prompts[asked]!r}, with columns that a query has not; give the "
                "whole text"
            )
        asked = "".join(literal for literal, _ in parts)
    return spec.model_copy(update={"prompt": asked, "prompt_column": None, "prompts": {}})
