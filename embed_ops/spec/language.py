"""What the families of language models have in the spec."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from embed_ops.spec.encoder_parts import OF_TEXTS, ONLY_AUTO, PromptedSpec
from embed_ops.spec.output import OutputSpec
from embed_ops.spec.wording import Names

_OF_PARTS = frozenset({"auto", "mean", "first", "last", "max"})


class LanguageEncoderSpec(PromptedSpec):
    """A language model: a vector a row, or for each word, token, window or chunk of a text."""

    POOLING = OF_TEXTS

    adapter: str | None = Field(
        None,
        description="adapter of PEFT to merge into the model: folder, object store prefix, or hub name; of "
        "these name@revision",
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

    attention: Literal["padded", "packed"] = Field(
        "padded",
        description="packed: batches without padding, by flash attention on a GPU with torch 2.11 or later",
    )

    def _check_output(self, output: OutputSpec) -> None:
        each = self.each(output)
        known = {"token": ONLY_AUTO, "word": _OF_PARTS, "chunk": _OF_PARTS}.get(each, self.POOLING)
        self._check_pooling(output, f"family {self.family!r}" if each == "row" else f"each = {each!r}", known)

    @model_validator(mode="after")
    def _chunks_have_a_size(self) -> Self:
        if ("chunk" in self._kinds) != (self.chunk is not None):
            raise ValueError(
                'chunk (tokens) and an output with each = "chunk" go together: give both or none'
            )
        return self

    @model_validator(mode="after")
    def _windows_cut_no_text(self) -> Self:
        if self.stride is not None and not self.in_windows:
            raise ValueError("stride says how far windows lie apart: give window too")
        if self.in_windows and self.max_tokens is not None:
            raise ValueError(
                "max_tokens cuts texts, and windows are there so that none is cut: give window instead"
            )
        return self

    @model_validator(mode="after")
    def _windows_have_one_prompt(self) -> Self:
        if self.in_windows and self.prompt_column is not None:
            raise ValueError(
                "prompt_column gives a vector a row its prompt, and these texts go through the model in "
                "windows: give prompt, or leave window and lists of vectors out"
            )
        return self

    @model_validator(mode="after")
    def _targets_are_words(self) -> Self:
        if (self.targets or self.targets_column) and "word" not in self._kinds:
            raise ValueError(
                'targets choose words: give an output with each = "word", as family words has by itself'
            )
        if self.targets and self.targets_column:
            raise ValueError("give targets or targets_column, not both")
        return self

    @property
    def _kinds(self) -> set[str]:
        return {self.each(output) for output in self.named}

    @property
    def in_windows(self) -> bool:
        """Whether texts go through the model in windows.

        Where that is asked for, or rows have lists of vectors.
        """
        return self.window is not None or self._kinds != {"row"}
