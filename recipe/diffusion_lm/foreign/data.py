"""Rules for the data keys of an MDLM / BD3-LM tree: text or RETURNN datasets, vocabulary, packed rows.

    data.valid=valid.txt data.tokenizer_name_or_path=vocab       # text, one document per line
    data.valid=returnn data.returnn_valid_config={dev: {class: ...}}

Nothing is downloaded: a name of a public data set or tokenizer is refused where it would be read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusion_lm.foreign.rules import HONOURED, NO_EFFECT, Reading, Rule, refuse, typed
from returnn_bridge.datasets import lm_dataset_dict, plain_opts
from returnn_bridge.vocab.open import is_vocab

_RETURNN = "returnn"
_TOKENIZER = "data.tokenizer_name_or_path"


def text_or_returnn(which: str, ordering: str) -> Rule:
    """Rule for data.train or data.valid: 'returnn', or local text files."""

    def rule(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        config = f"data.returnn_{which}_config"
        if value == _RETURNN:
            return HONOURED, config
        paths = [value] if isinstance(value, str) else value
        local = isinstance(paths, list) and bool(paths) and all(isinstance(p, str) and os.path.isfile(p) for p in paths)
        if not local:
            refuse(
                key,
                value,
                "no such file, and nothing is downloaded; expected a local text file, one document a line "
                f"({key}=FILE), or 'returnn' with {config}",
            )
        if reading.leaves.get(config):
            refuse(key, value, f"there is {config} too; expected 'returnn', or null for the other one")
        vocab = reading.leaves.get(_TOKENIZER)
        packed = which == "train" and reading.leaves.get("data.wrap") is True
        # The order by length would put texts of one length into a row.
        opts = lm_dataset_dict(paths, str(vocab), seq_ordering="random" if packed else ordering)
        reading.put(key, opts if which == "train" else {"valid": opts}, key)
        return HONOURED, f"{key}: a sentence or document a line"

    return rule


def tokenizer(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for the vocabulary: a local one, or no effect if RETURNN datasets bring theirs."""
    if isinstance(value, str) and is_vocab(Path(value)):
        reading.put("data.vocab", value, key)
        return HONOURED, "data.vocab"
    sets = (reading.leaves.get("data.train"), reading.leaves.get("data.valid"))
    if all(name is None or name == _RETURNN for name in sets):
        return NO_EFFECT, "the vocabulary is the SentencePiece model of the RETURNN dataset"
    refuse(
        key,
        value,
        f"no such vocabulary here, and nothing is downloaded; expected a SentencePiece .model file "
        f"or a vocabulary folder ({key}=FILE)",
    )


def wrap(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for data.wrap: documents packed into rows."""
    if not typed(key, value, bool):
        return HONOURED, "one sentence a row"
    if reading.mode == "ppl_eval":
        reading.put("run.wrap", True, key)
    else:
        reading.put("data.wrap", True, key)
        if "algo.name" not in reading.leaves and reading.leaves.get("parameterization") != "ar":
            reading.put("family.score_eos", True, key)  # rows hold ends of documents, as ignore_bos says with algo
    return HONOURED, "documents one behind the other, cut into rows of model.length tokens"


def insert(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for data.insert_{train,valid}_{eos,special}: the symbols inserted into packed rows."""
    typed(key, value, bool)
    special = key.endswith("special")
    if reading.leaves.get("data.wrap") is not True:
        return NO_EFFECT, "read for packed rows (data.wrap); a sentence stands between BOS and EOS"
    if reading.mode == "train":
        reading.put(key, value, key)
    elif "valid" not in key:
        return NO_EFFECT, "no training rows are read"
    else:
        reading.put("run.insert_special" if special else "run.insert_eos", value, key)
    where = "BOS and EOS around every row" if special else "EOS behind every document"
    return HONOURED, where if value else f"no {where}"


def train_data(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for data.returnn_train_config, a dataset dict, which names the vocabulary too."""
    try:
        opts = plain_opts(value) if value is not None else {}
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    reading.put("data.train", opts, key)
    vocabs = [path for name, path in files_of(opts, key) if name.endswith("model_file")]
    if vocabs:
        reading.put("data.vocab", vocabs[0], key)
    return HONOURED, "data.train, and data.vocab from its SentencePiece model"


def valid_data(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for data.returnn_valid_config: a dataset dict for each name; mode sample_eval reads the first alone."""
    if value is not None and (type(value) is not dict or "class" in value):
        refuse(key, type(value).__name__, "expected one dataset dict for each name, e.g. {dev: {class: ...}}")
    sets = {}
    for name, opts in (value or {}).items():
        try:
            sets[str(name)] = plain_opts(opts)
        except ValueError as error:
            raise ValueError(f"{key}.{name}: {error}") from None
    if reading.mode == "sample_eval":
        reading.put("data.valid", dict(list(sets.items())[:1]), key)
        return HONOURED, "data.valid: samples have the lengths of its first set"
    reading.put("data.valid", sets, key)
    return HONOURED, "data.valid; the first set is the one that is monitored"


def files_of(opts: Any, where: str) -> Iterator[tuple[str, str]]:
    """(key, path) of every file that a dataset dict names."""
    for key, item in opts.items() if isinstance(opts, dict) else []:
        if key in (
            "corpus_file",
            "path",
            "files",
            "model_file",
            "seq_list_file",
            "seq_list_filter_file",
            "segment_file",
        ):
            for path in item if isinstance(item, list) else [item]:
                if path is not None:
                    yield f"{where}.{key}", str(path)
        else:
            yield from files_of(item, f"{where}.{key}")


def reads_valid(reading: Reading) -> bool:
    """Whether the mode reads a validation set. Mode sample_eval takes the lengths of its samples from the first one,
    unless the model says itself where a sample ends.
    """
    left_to_right = {"bd3lm", "ar"} & {reading.leaves.get("algo.name"), reading.leaves.get("parameterization")}
    return reading.mode in ("train", "ppl_eval") or (reading.mode == "sample_eval" and not left_to_right)


def of_valid(rule: Rule) -> Rule:
    """Apply a rule only if a validation set is read."""

    def wrapped(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        if reads_valid(reading):
            return rule(reading, key, value)
        return NO_EFFECT, "no validation set is read: the model itself ends its samples"

    return wrapped


def of_part(rule: Rule) -> Rule:
    """Apply a rule about batches in mode train, and elsewhere only if a part of the validation batches is read."""

    def wrapped(reading: Reading, key: str, value: Any) -> tuple[str, str]:
        limit = reading.leaves.get("trainer.limit_val_batches", 1.0)
        if reading.mode == "train" or type(limit) is int or limit != 1:
            return rule(reading, key, value)
        return (
            NO_EFFECT,
            "with trainer.limit_val_batches 1.0 no result depends on the batches of sentences",
        )

    return of_valid(wrapped)
