"""Opens a vocabulary of any kind; the tokenizer is recognised by the files at the path.

    vocab = load_vocab("run/model")             # folder or file: spm.model, tokenizer.json, vocab.json with merges.txt

A folder with two vocabularies is an error.
"""

from __future__ import annotations

import os
from pathlib import Path

from returnn_bridge.vocab import MODEL_FILE, PAIR, TOKENIZER_FILE, Vocab, Vocabulary
from returnn_bridge.vocab.bpe import BpeVocab


def load_vocab(path: str | os.PathLike[str]) -> Vocabulary:
    """The vocabulary in a folder or file. FileNotFoundError if it is missing, ValueError if invalid or ambiguous."""
    given = Path(path)
    file = vocab_file(given) if given.is_dir() else given
    if not file.is_file():
        raise FileNotFoundError(f"{given}: no such vocabulary; expected a folder of {_KNOWN}, or such a file")
    return BpeVocab.load(given) if file.suffix == ".json" or file.name in PAIR else Vocab.load(given)


def vocab_file(folder: Path) -> Path:
    """The vocabulary file in a folder. FileNotFoundError if there is none, ValueError if there are two."""
    names = [name for name in (MODEL_FILE, TOKENIZER_FILE) if (folder / name).is_file()]
    if not names and all((folder / name).is_file() for name in PAIR):
        names = [PAIR[0]]
    if len(names) != 1:
        raise (ValueError if names else FileNotFoundError)(
            f"{folder}: {' and '.join(names) or 'no vocabulary'}; expected one of {_KNOWN}"
        )
    return folder / names[0]


def is_vocab(path: Path) -> bool:
    """Whether a path is a file, which may be a vocabulary, or a folder that contains one."""
    return path.is_file() or any((path / name).is_file() for name in (MODEL_FILE, TOKENIZER_FILE, *PAIR))


_KNOWN = f"{MODEL_FILE}, {TOKENIZER_FILE}, {' with '.join(PAIR)}"
