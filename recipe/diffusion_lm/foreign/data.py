"""Rules for the data keys of an MDLM / BD3-LM tree: text or RETURNN datasets, vocabulary, packed rows.

    data.valid=valid.txt data.tokenizer_name_or_path=vocab       # text, one document per line
    data.valid=returnn data.returnn_valid_config={dev: {class: ...}}

Nothing is downloaded: a name of a public data set or tokenizer is refused where it would be read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from diffusion_lm.foreign.rules import HONOURED, NO_EFFECT, Reading, Rule, refuse, typed
from returnn_bridge.datasets import lm_dataset_dict
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
            if not _is_read(reading, which):
                return NO_EFFECT, f"mode {reading.mode} does not read it"
            refuse(
                key,
                value,
                "no such file, and nothing is downloaded; expected a local text file, one document a line "
                f"({key}=FILE), or 'returnn' with {config}",
            )
        if reading.leaves.get(config):
            refuse(key, value, f"there is {config} too; expected 'returnn', or null for the other one")
        vocab = reading.leaves.get(_TOKENIZER)
        opts = lm_dataset_dict(paths, str(vocab), seq_ordering=ordering)
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
    """Rule for data.wrap: documents packed into rows, in mode ppl_eval only."""
    if not typed(key, value, bool):
        return NO_EFFECT, "one sentence a row"
    if reading.mode == "train":
        refuse(
            key, value, "training reads one sentence a row, packed ones are evaluated only; expected data.wrap=false"
        )
    if reading.mode != "ppl_eval":
        return NO_EFFECT, "read in mode ppl_eval only"
    reading.put("run.wrap", True, key)
    return HONOURED, "documents one behind the other, cut into rows of model.length tokens"


def insert(reading: Reading, key: str, value: Any) -> tuple[str, str]:
    """Rule for data.insert_{train,valid}_{eos,special}: the symbols inserted into packed rows."""
    typed(key, value, bool)
    if "valid" not in key or reading.mode != "ppl_eval" or reading.leaves.get("data.wrap") is not True:
        return NO_EFFECT, "read for packed rows (data.wrap in mode ppl_eval); a sentence stands between BOS and EOS"
    special = key.endswith("special")
    reading.put("run.insert_special" if special else "run.insert_eos", value, key)
    where = "BOS and EOS around every row" if special else "EOS behind every document"
    return HONOURED, where if value else f"no {where}"


def _is_read(reading: Reading, which: str) -> bool:
    if which == "train":
        return reading.mode == "train"
    left_to_right = reading.leaves.get("algo.name") in ("bd3lm", "ar")  # other models sample with its sentence lengths
    return reading.mode in ("train", "ppl_eval") or (reading.mode == "sample_eval" and not left_to_right)
