"""The plain BERT tokenizer, which most embedding models use, straight from tokenizer.json.

It is read so where its files leave no doubt that AutoTokenizer would build the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embed_ops.encoders.hub.files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
