"""Any vocabulary: which tokenizer it is follows from what lies at its path.

    vocab = load_vocab("run/model")             # spm.model, tokenizer.json, or vocab.json and merges.txt; a folder of one, or such a file

A folder that holds two vocabularies is an error, not a choice.
"""

from __future__ import annotations

import os
from pathlib import Path

from returnn_bridge.vocab import MODEL_FILE, PAIR, TOKENIZER_FILE, Vocab, Vocabulary
from returnn_bridge.vocab.bpe import BpeVocab


def load_vocab(path: str | os.PathLike[str]) -> Vocabulary:
    """A vocabulary folder or file. FileNotFoundError where there is none, ValueError for a file that is none or a folder of two."""
    given = Path(path)
    file = vocab_file(given) if given.is_dir() else given
    if not file.is_file():
        raise FileNotFoundError(f"{given}: no such vocabulary; expected a folder of {_KNOWN}, or such a file")
    return BpeVocab.load(given) if file.suffix == ".json" or file.name in PAIR else Vocab.load(given)


def vocab_file(folder: Path) -> Path:
    """The file of a folder that says which vocabulary it holds."""
    names = [name for name in (MODEL_FILE, TOKENIZER_FILE) if (folder / name).is_file()]
    if not names and all((folder / name).is_file() for name in PAIR):
        names = [PAIR[0]]
    if len(names) != 1:
        raise (ValueError if names else FileNotFoundError)(
            f"{folder}: {' and '.join(names) or 'no vocabulary'}; expected one of {_KNOWN}"
        )
    return folder / names[0]


def is_vocab(path: Path) -> bool:
    """Whether there is a vocabulary at a path (of a folder; any file may be one)."""
    return path.is_file() or any((path / name).is_file() for name in (MODEL_FILE, TOKENIZER_FILE, *PAIR))


_KNOWN = f"{MODEL_FILE}, {TOKENIZER_FILE}, {' with '.join(PAIR)}"
