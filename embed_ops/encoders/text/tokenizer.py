"""Text to token ids on CPU workers, with the ids that transformers' AutoTokenizer gives.

Importing transformers costs seconds and imports torch. The plain BERT tokenizer, which most
embedding models use, is therefore read straight from tokenizer.json when its files leave no doubt
that AutoTokenizer would build the same one; everything else goes through AutoTokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from embed_ops.encoders.base import BoolArray, IntArray
from embed_ops.encoders.hub.files import read_json
from embed_ops.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

CHUNK = 1024
"""Texts tokenized in one call: bounds the memory of the encodings, which are far larger than the
ids."""
BERT_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
BERT_CLASSES = frozenset({"BertTokenizer", "BertTokenizerFast", None})
BERT_TYPES = frozenset({"bert", "distilbert"})
MORE_TOKENS = ("bos_token", "eos_token", "additional_special_tokens", "extra_special_tokens")
NOT_PLAIN = (*MORE_TOKENS, "init_inputs", "auto_map", "split_special_tokens")


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts, one after the other: text i has values[offsets[i]:offsets[i + 1]].

    (texts,) bool says which were cut.
    """

    offsets: IntArray
    values: IntArray
    truncated: BoolArray


def lowercase_first(backend: Tokenizer) -> None:
    """Put a lowercase step first, as sentence-transformers does for `do_lower_case`."""
    from tokenizers import normalizers

    there: Any = backend.normalizer
    # The type stubs do not know that a Sequence can be walked.
    walk: Any = list
    steps = walk(there) if isinstance(there, normalizers.Sequence) else [] if there is None else [there]
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def space_first(backend: Tokenizer) -> None:
    """Take each word of a list as behind a space, as transformers does with `add_prefix_space`."""
    from tokenizers import pre_tokenizers

    there: Any = backend.pre_tokenizer
    walk: Any = list
    for step in walk(there) if isinstance(there, pre_tokenizers.Sequence) else [there]:
        if isinstance(step, pre_tokenizers.ByteLevel):
            step.add_prefix_space = True


def read_plain_bert(folder: Path) -> Tokenizer | None:
    """Read tokenizer.json where AutoTokenizer provably builds the same tokenizer, else None.

    AutoTokenizer builds a BERT tokenizer from the vocabulary, tokenizer_config.json and the special
    tokens, not from the rest of tokenizer.json; both are the same only if nothing in the files
    departs from the plain BERT form.
    """
    config, file = read_json(folder / "tokenizer_config.json"), read_json(folder / "tokenizer.json")
    stated = {key: value for key, value in config.items() if key.endswith("_token")} | read_json(
        folder / "special_tokens_map.json"
    )
    model = file.get("model") or {}
    vocabulary = model.get("vocab") or {}
    as_built = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
    }
    as_built |= {"strip_accents": config.get("strip_accents"), "lowercase": config.get("do_lower_case", True)}
    wordpiece = ("WordPiece", "[UNK]", "##", 100)
    same = (
        read_json(folder / "config.json").get("model_type") in BERT_TYPES
        and config.get("tokenizer_class") in BERT_CLASSES
        and not (folder / "added_tokens.json").exists()
        and not any(config.get(key) or stated.get(key) for key in NOT_PLAIN)
        and tuple(
            model.get(key)
            for key in ("type", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word")
        )
        == wordpiece
        and file.get("normalizer") == as_built
        and file.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
        and all(stated.get(key, value) == value for key, value in BERT_TOKENS.items())
        and not set(stated) - set(BERT_TOKENS) - set(MORE_TOKENS)
        and _plain_added(file.get("added_tokens") or [], vocabulary)
        and (
            "added_tokens_decoder" not in config
            or _plain_added(_decoder(config["added_tokens_decoder"]), vocabulary)
        )
        and _plain_template(file.get("post_processor") or {}, vocabulary)
    )
    if not same:
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # what tokenizers raises has no class of its own; transformers will say it
        return None


def _decoder(added: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"id": int(number), **token} for number, token in added.items() if isinstance(token, dict)]


def _plain_added(added: Sequence[Mapping[str, Any]], vocabulary: Mapping[str, int]) -> bool:
    """Say whether the added tokens are BERT's five, plain, at their places in the vocabulary."""
    flags = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return sorted(str(token.get("content")) for token in added) == sorted(BERT_TOKENS.values()) and all(
        dict(token) == {**flags, "content": token["content"], "id": vocabulary.get(token["content"])}
        for token in added
    )


def _plain_template(processor: Mapping[str, Any], vocabulary: Mapping[str, int]) -> bool:
    """Say whether a single text becomes [CLS] text [SEP] with type 0."""
    single = [
        (next(iter(piece)), *next(iter(piece.values())).values()) for piece in processor.get("single") or []
    ]
    plain = [("SpecialToken", "[CLS]", 0), ("Sequence", "A", 0), ("SpecialToken", "[SEP]", 0)]
    special = {name: entry.get("ids") for name, entry in (processor.get("special_tokens") or {}).items()}
    expected = {name: [vocabulary.get(name)] for name in ("[CLS]", "[SEP]")}
    return processor.get("type") == "TemplateProcessing" and single == plain and special == expected


class TextTokenizer:
    """The tokenizer of a transformer's folder.

    Args:
        folder: the transformer's folder.
        limit: most tokens of a text, special tokens included; None for no limit.
        lower: lower the text first, as sentence-transformers does for `do_lower_case`.
        trust_remote_code: run the folder's own tokenizer code.
        direct: read tokenizer.json without transformers where that is the same.

    Raises:
        ModelError: the tokenizer can't be loaded, or has a form that models would not understand
            here.
    """

    def __init__(
        self, folder: Path, limit: int | None, lower: bool, trust_remote_code: bool, direct: bool = True
    ) -> None:
        self.limit = limit
        self._folder = folder
        self._slow: Any = None
        backend = read_plain_bert(folder) if direct else None
        if backend is not None:
            config, file = read_json(folder / "tokenizer_config.json"), read_json(folder / "tokenizer.json")
            side = (
                config.get("truncation_side")
                or (file.get("truncation") or {}).get("direction", "right").lower()
            )
            self.special = frozenset(
                number for name in BERT_TOKENS.values() if (number := backend.token_to_id(name)) is not None
            )
            self.pad, self.source = backend.token_to_id("[PAD]") or 0, "tokenizer.json"
        else:
            whole = load_auto_tokenizer(folder, trust_remote_code)
            self.special, self.source, side = (
                frozenset(whole.all_special_ids),
                type(whole).__name__,
                whole.truncation_side,
            )
            self.pad = whole.pad_token_id if whole.pad_token_id is not None else 0
            backend = whole.backend_tokenizer if whole.is_fast else None
            self._slow = None if whole.is_fast else whole
            if lower and backend is None:
                raise ModelError(
                    f"{folder}: do_lower_case with the slow tokenizer {self.source} is not supported; "
                    "choose another model"
                )
        self._backend = backend
        if backend is not None:
            if lower:
                lowercase_first(backend)
            self._configure(backend, side)

    def _configure(self, backend: Tokenizer, side: str) -> None:
        """Set truncation and padding: tokenizer.json carries its own, often of a shorter length."""
        backend.no_padding()
        special = backend.num_special_tokens_to_add(False)
        if self.limit is not None and self.limit <= special:
            raise ModelError(
                f"{self._folder}: {self.limit} tokens leave no room beside {special} special tokens; "
                "raise encoder.max_tokens"
            )
        if self.limit is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(self.limit, direction=side)
        if any(backend.encode("a").type_ids):
            raise ModelError(
                f"{self._folder}: the tokenizer gives a single text token types other than 0; choose "
                "another model"
            )

    @property
    def backend(self) -> Tokenizer | None:
        """The tokenizer itself, None where it is Python code."""
        return self._backend

    def encode(self, texts: Sequence[str], prefix: str = "") -> Tokens:
        """Tokenize `prefix + text` for each text, cut to the limit; special tokens are kept."""
        lengths: list[IntArray] = []
        values: list[IntArray] = []
        cut: list[BoolArray] = []
        for start in range(0, len(texts), CHUNK):
            part = (
                [prefix + text for text in texts[start : start + CHUNK]]
                if prefix
                else list(texts[start : start + CHUNK])
            )
            ids, truncated = (
                self._encode_slow(part) if self._backend is None else self._encode_fast(self._backend, part)
            )
            lengths.append(np.fromiter(map(len, ids), np.int32, len(ids)))
            values.append(np.fromiter(chain.from_iterable(ids), np.int32, int(lengths[-1].sum())))
            cut.append(truncated)
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(_join(lengths, np.int32), out=offsets[1:])
        if offsets[-1] > np.iinfo(np.int32).max:
            raise ModelError(
                f"one unit has {offsets[-1]} tokens, more than an Arrow list can hold; lower "
                "resources.unit_rows"
            )
        return Tokens(offsets.astype(np.int32), _join(values, np.int32), _join(cut, np.bool_))

    def _encode_fast(self, backend: Tokenizer, texts: list[str]) -> tuple[list[list[int]], BoolArray]:
        encodings = backend.encode_batch_fast(texts)
        ids = [encoding.ids for encoding in encodings]
        return ids, np.fromiter(self._cut(encodings, ids), np.bool_, len(ids))

    def _cut(self, encodings: Sequence[Encoding], ids: Sequence[list[int]]) -> Iterator[bool]:
        # A text of exactly the limit is whole, so only the overflow tells; asking for it costs, so
        # most rows are not asked.
        for encoding, row in zip(encodings, ids, strict=True):
            yield self.limit is not None and len(row) >= self.limit and len(encoding.overflowing) > 0

    def _encode_slow(self, texts: list[str]) -> tuple[list[list[int]], BoolArray]:
        whole: list[list[int]] = self._slow(texts, truncation=False, verbose=False)["input_ids"]
        truncated = np.array([self.limit is not None and len(row) > self.limit for row in whole], np.bool_)
        for row in np.flatnonzero(truncated):
            whole[row] = self._slow(texts[row], truncation=True, max_length=self.limit)["input_ids"]
        return whole, truncated

    def prompt_length(self, prompt: str) -> int:
        """Count the tokens of a prompt at the start of a text, as sentence-transformers does."""
        ids = self.encode([prompt]).values
        return len(ids) - int(len(ids) > 0 and int(ids[-1]) in self.special)


def _join(parts: Sequence[npt.NDArray[Any]], dtype: Any) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype)


def load_auto_tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    """Load the tokenizer through transformers.

    Raises:
        ModelError: transformers can't load it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # each tokenizer class fails in its own way
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ModelError(
            f"{folder}: the tokenizer can't be loaded ({reason}); save it again with its model"
        ) from error
