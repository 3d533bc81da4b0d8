"""Packed rows in training (`data.wrap`): their settings, and the models that they make sense for.

    rows = packed_rows(DataConfig(wrap=True, max_seq_length=126), model)        # rows of 128 tokens

As in MDLM and BD3-LM, documents follow each other with EOS between them, and a row begins anywhere in a document. Such
a row holds ends of documents, so only a family that predicts ends can be trained on it.
"""

from __future__ import annotations

from diffusion_lm.config import DataConfig
from diffusion_lm.model import LanguageModel
from returnn_bridge.datamodule import PackedRows
from returnn_bridge.packing import Packing


def packed_rows(data: DataConfig, model: LanguageModel) -> PackedRows:
    """The packed rows of training and validation. ValueError for a model that they do not fit."""
    family, length = model.family, data.max_seq_length + 2
    if not family.scores_end:
        raise ValueError(
            f"data.wrap true: packed rows hold ends of documents, which family {model.family_options.get('name')!r} "
            "does not predict; expected family.score_eos=true, or another family"
        )
    if family.block_size is not None and length % family.block_size:
        raise ValueError(
            f"data.max_seq_length {data.max_seq_length}: packed rows have {length} tokens, BOS and EOS counted; "
            f"expected a multiple of family.block_size {family.block_size}"
        )
    return PackedRows(
        train=Packing(length, insert_eos=data.insert_train_eos, insert_special=data.insert_train_special),
        valid=Packing(length, insert_eos=data.insert_valid_eos, insert_special=data.insert_valid_special),
        bos_id=model.vocab.bos_id,
        eos_id=model.vocab.eos_id,
    )
