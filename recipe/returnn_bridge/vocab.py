"""The vocabulary: SentencePiece text <-> ids, and the special ids every model of this project agrees on.

    vocab = train_vocab(["train.txt.gz"], size=10240, out="vocab")       # or Vocab.load("vocab") / Vocab.load("some/spm.model")
    ids = vocab.encode("he hoped there would be stew")
    vocab.decode(ids); vocab.count_unknown(ids)

Ids 0 .. V-1 are the pieces of the SentencePiece model (V = `num_pieces`); the mask id follows them (m = V). BOS and EOS are the
model's own control pieces when it has them, otherwise they follow the mask. The padding id comes last and is never embedded:
PAD and MASK can not coincide, which is a trap with tokenizers that have neither.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL_FILE = "spm.model"


@dataclass(frozen=True)
class Vocab:
    """A SentencePiece model and the special ids that follow its pieces."""

    model_proto: bytes = field(repr=False)
    _processor: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(self.model_proto)
        except RuntimeError as error:
            raise ValueError(
                f"not a SentencePiece model ({error}); expected the .model file that training wrote"
            ) from None
        object.__setattr__(self, "_processor", processor)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocab:
        """Read a vocabulary folder (holding `spm.model`) or a SentencePiece .model file. ValueError if it is not one."""
        file = Path(path)
        if file.is_dir():
            file = file / MODEL_FILE
        proto = file.read_bytes()
        try:
            return cls(proto)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `folder/spm.model` (whole or not at all) and return its path."""
        target = Path(folder) / MODEL_FILE
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.write_bytes(self.model_proto)
        os.replace(temporary, target)
        return target

    @property
    def num_pieces(self) -> int:
        """V, the number of SentencePiece pieces; the ids a network may predict."""
        return int(self._processor.GetPieceSize())

    @property
    def unk_id(self) -> int:
        return int(self._processor.unk_id())

    @property
    def mask_id(self) -> int:
        return self.num_pieces

    @property
    def bos_id(self) -> int:
        own = int(self._processor.bos_id())
        return own if own >= 0 else self.num_pieces + 1

    @property
    def eos_id(self) -> int:
        own = int(self._processor.eos_id())
        return own if own >= 0 else self.num_pieces + 1 + (int(self._processor.bos_id()) < 0)

    @property
    def num_inputs(self) -> int:
        """How many ids a network embeds: pieces, mask, and BOS / EOS where the SentencePiece model has none."""
        return max(self.mask_id, self.bos_id, self.eos_id) + 1

    @property
    def pad_id(self) -> int:
        return self.num_inputs

    def encode(self, text: str) -> list[int]:
        """Ids of one text; no BOS, no EOS. Characters without a piece become `unk_id` (see `count_unknown`)."""
        return list(self._processor.EncodeAsIds(text))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once (faster)."""
        return [list(ids) for ids in self._processor.Encode(list(texts), out_type=int, num_threads=1)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of piece ids; the special ids beyond the pieces are written as <mask>, <s>, </s>."""
        names = {self.mask_id: "<mask>", self.bos_id: "<s>", self.eos_id: "</s>"}
        parts: list[str] = []
        run: list[int] = []
        for token in ids:
            if token in names:
                parts += [self._processor.DecodeIds(run)] if run else []
                parts.append(names[token])
                run = []
            else:
                run.append(int(token))
        parts += [self._processor.DecodeIds(run)] if run else []
        return " ".join(parts)

    def join_pieces(self, text: str) -> str:
        """Words of a text given as space-separated pieces, the i6 label-level form: '▁AS ▁I ▁APPROACH ED' -> 'AS I APPROACHED'."""
        return text.replace(" ", "").replace("▁", " ").strip()

    def count_unknown(self, ids: Sequence[int]) -> int:
        return sum(token == self.unk_id for token in ids)


def train_vocab(
    texts: Sequence[str | os.PathLike[str]], *, size: int, out: str | os.PathLike[str], model_type: str = "unigram"
) -> Vocab:
    """Train a SentencePiece model of `size` pieces on text files (plain or .gz, one sentence a line) and save it in folder `out`.

    Raises ValueError when the text has too few distinct pieces for `size`, FileNotFoundError for a missing text.
    One thread, so that the same text gives the same bytes.
    """
    import sentencepiece

    if model_type not in ("unigram", "bpe"):
        raise ValueError(f"model type {model_type!r}; expected 'unigram' or 'bpe'")
    for path in texts:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such text file")
    buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=read_lines(texts),
            model_writer=buffer,
            vocab_size=size,
            model_type=model_type,
            character_coverage=1.0,
            input_sentence_size=500_000,
            shuffle_input_sentence=True,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(
            f"SentencePiece could not make {size} pieces of this text: {str(error).splitlines()[-1]}"
        ) from None
    vocab = Vocab(buffer.getvalue())
    vocab.save(out)
    return vocab


def read_lines(texts: Sequence[str | os.PathLike[str]]) -> Iterator[str]:
    """Non-empty lines of text files, plain or .gz, without the line end. A broken .gz or wrong encoding names file and line."""
    for path in texts:
        number = 0
        try:
            opened = (
                gzip.open(path, "rt", encoding="utf-8") if str(path).endswith(".gz") else open(path, encoding="utf-8")
            )
            with opened as file:
                for line in file:
                    number += 1
                    if stripped := line.strip():
                        yield stripped
        except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
            raise ValueError(f"{path}:{number + 1}: {error}; expected UTF-8 text, one sentence a line") from None
