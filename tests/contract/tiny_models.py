"""Tiny models of every supported architecture, saved as real folders: seeded weights, tokenizers trained on a few texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Embeddings turn text into vectors; vectors are compared by cosine.",
    "a",
    "",
    "   spaces   around   ",
    "Line one\nline two\ttabbed\r\nline three",
    "ÉCOLE, Straße, İstanbul, ΣΊΣΥΦΟΣ",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈 in the middle",
    "中文文本和日本語のテキスト、한국어도",
    "مرحبا بالعالم שלום עולם",
    "zero\u200bwidth\u200d and \ufeff marks \u202eright to left\u202c",
    "[CLS] special <s> tokens </s> in [SEP] the text <|endoftext|> <mask>",
    "the quick brown fox " * 40,
    "numbers 1234567890 and signs !@#$%^&*()_+{}|:<>?",
]
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
LONGEST = 64


def _word_pieces() -> dict[str, int]:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    return _in_order(tokenizer)


def _bytes(special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]], Tokenizer]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    return _in_order(tokenizer), merges, tokenizer


def _in_order(tokenizer: Tokenizer) -> dict[str, int]:
    return dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))


def _unigrams(special: list[str]) -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"]]


def bert_tokenizer() -> Any:
    """Make a WordPiece tokenizer."""
    return transformers.BertTokenizer(vocab=_word_pieces(), model_max_length=LONGEST)


def _bert(path: Path) -> tuple[Any, Any]:
    tokenizer = bert_tokenizer()
    return transformers.BertModel(transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=LONGEST, **SIZES)), tokenizer


def _distilbert(path: Path) -> tuple[Any, Any]:
    tokenizer = bert_tokenizer()
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=LONGEST, dim=32, n_layers=2, n_heads=4, hidden_dim=64
    )
    return transformers.DistilBertModel(config), tokenizer


def _mpnet(path: Path) -> tuple[Any, Any]:
    vocabulary = {name: number for number, name in enumerate(["<s>", "<pad>", "</s>", "[UNK]", "<mask>"])}
    for piece in _word_pieces():
        vocabulary.setdefault(piece, len(vocabulary))
    tokenizer = transformers.MPNetTokenizer(vocab=vocabulary)
    # No limit in the tokenizer: the positions, which start after the padding id 1, are the only one.
    config = transformers.MPNetConfig(vocab_size=len(tokenizer), max_position_embeddings=LONGEST + 2, **SIZES)
    return transformers.MPNetModel(config), tokenizer


def _roberta(path: Path) -> tuple[Any, Any]:
    vocabulary, merges, _ = _bytes(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer = transformers.RobertaTokenizer(vocab=vocabulary, merges=merges)
    config = transformers.RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=LONGEST + 2, **SIZES)
    return transformers.RobertaModel(config), tokenizer


def _xlm_roberta(path: Path) -> tuple[Any, Any]:
    tokenizer = transformers.XLMRobertaTokenizer(vocab=_unigrams(["<s>", "<pad>", "</s>", "<unk>"]))
    config = transformers.XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=LONGEST + 2, **SIZES)
    return transformers.XLMRobertaModel(config), tokenizer


def _modernbert(path: Path) -> tuple[Any, Any]:
    vocabulary, _, backend = _bytes(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    marks = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=marks)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=LONGEST, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=LONGEST, pad_token_id=0, local_attention=8, **SIZES
    )
    return transformers.ModernBertModel(config), tokenizer


def _t5(path: Path) -> tuple[Any, Any]:
    tokenizer = transformers.T5Tokenizer(vocab=_unigrams(["<pad>", "</s>", "<unk>"]), extra_ids=0, model_max_length=LONGEST)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    # The whole encoder-decoder is saved, as hub folders have it: only the encoder may be loaded from it.
    return transformers.T5Model(config), tokenizer


def _qwen3(path: Path) -> tuple[Any, Any]:
    vocabulary, merges, _ = _bytes(["<|endoftext|>"])
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocabulary, merges=merges, padding_side="left", model_max_length=LONGEST)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    # Qwen3 embedding models end every text with this token and pool it.
    template = processors.TemplateProcessing(single="$A <|endoftext|>", pair="$A $B <|endoftext|>", special_tokens=[("<|endoftext|>", end)])
    tokenizer.backend_tokenizer.post_processor = template
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer), max_position_embeddings=LONGEST, num_key_value_heads=2, head_dim=8, pad_token_id=end, **SIZES
    )
    model = transformers.Qwen3Model(config)
    # Padding and end are one token, as in the real models; its vector is not zero there, while a new model's is.
    torch.nn.init.normal_(model.embed_tokens.weight)
    return model, tokenizer


ARCHITECTURES: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "bert": _bert,
    "distilbert": _distilbert,
    "mpnet": _mpnet,
    "roberta": _roberta,
    "xlm-roberta": _xlm_roberta,
    "modernbert": _modernbert,
    "t5": _t5,
    "qwen3": _qwen3,
}


def build(architecture: str, path: Path) -> Path:
    """Save a tiny model with its tokenizer to `path`, and give the path."""
    torch.manual_seed(7)
    model, tokenizer = ARCHITECTURES[architecture](path)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
