"""Small Hugging Face folders: tokenizers of three kinds and models with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import random_text

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_bpe(folder: Path, **specials: str) -> int:
    """A byte-level BPE tokenizer as GPT-2's; returns the number of its tokens.

    The merges are written down: training breaks ties by chance, and tests need the same tokens in every run.
    """
    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("i", "n"),
        ("Ġ", "k"),
        ("in", "g"),
        ("Ġk", "ing"),
        ("s", "a"),
        ("i", "d"),
    ]
    pieces = [*sorted(set(specials.values())), *symbols, *(left + right for left, right in merges)]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained(folder)
    return len(pieces)


def save_wordpiece(folder: Path) -> int:
    """A tokenizer as BERT's, which knows the words of `random_text` but "child" and "stone"; it asks for truncation."""
    pieces = ["##s", "##d", *sorted(set(random_text(200).split()) - {"child", "stone"})]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {piece: place for place, piece in enumerate([*SPECIALS, *pieces])}, unk_token="[UNK]"
        )
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", SPECIALS.index("[CLS]")), ("[SEP]", SPECIALS.index("[SEP]"))]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_truncation(4)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return len(SPECIALS) + len(pieces)


def save_model(folder: Path, kind: type, config: object) -> Path:
    """Random weights large enough that scores differ."""
    torch.manual_seed(0)
    config.initializer_range = 0.5  # type: ignore[attr-defined]
    kind(config).save_pretrained(folder)
    return folder


def make_gpt2(folder: Path) -> Path:
    size = save_bpe(folder, bos_token="<s>", eos_token="</s>")
    config = transformers.GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    return save_model(folder, transformers.GPT2LMHeadModel, config)


def make_bert(folder: Path) -> Path:
    config = transformers.BertConfig(vocab_size=save_wordpiece(folder), max_position_embeddings=32, **SIZE)
    return save_model(folder, transformers.BertForMaskedLM, config)


def copied(source: Path, target: Path) -> Path:
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def changed_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
