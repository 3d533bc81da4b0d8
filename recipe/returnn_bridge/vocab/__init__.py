"""The vocabulary: text <-> ids, and the special ids every model of this project agrees on.

    vocab = train_vocab(["train.txt.gz"], size=10240, out="vocab")       # or Vocab.load("vocab") / Vocab.load("some/spm.model")
    ids = vocab.encode("he hoped there would be stew")
    vocab.decode(ids); vocab.count_unknown(ids)

Ids 0 .. V-1 are the tokenizer's own pieces (V = `num_pieces`); the mask id follows them (m = V). BOS and EOS are pieces where the tokenizer
has them, otherwise they follow the mask. The padding id comes last and is never embedded: PAD and MASK can not coincide, which is a trap with
tokenizers that have neither.

`Vocab` is a SentencePiece model, what is trained with; bpe_vocab.py has the tokenizer of published weights; open_vocab.py opens either.
"""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from returnn_bridge.files import iterate_lines, lock, write_text

MODEL_FILE = "spm.model"
TOKENIZER_FILE = "tokenizer.json"
PAIR = ("vocab.json", "merges.txt")  # the same tokenizer in GPT-2's own two files


class Vocabulary(ABC):
    """What a model asks of its vocabulary, whichever tokenizer it is. Two with the same bytes are equal."""

    file_name: ClassVar[str]  # of its file in a folder
    separator: ClassVar[str]  # between the text of pieces and a special id's name

    @property
    @abstractmethod
    def content(self) -> bytes:
        """The bytes of its file."""

    @property
    @abstractmethod
    def num_pieces(self) -> int:
        """V, the number of the tokenizer's pieces; the ids a network may predict."""

    @property
    @abstractmethod
    def bos_id(self) -> int: ...

    @property
    @abstractmethod
    def eos_id(self) -> int:
        """May be the id of BOS too, as it is in GPT-2's vocabulary."""

    @property
    @abstractmethod
    def special_names(self) -> Mapping[int, str]:
        """How `decode` writes the ids that are no text."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once (faster)."""

    @abstractmethod
    def decode_pieces(self, ids: Sequence[int]) -> str:
        """Text of ids that are all pieces."""

    @abstractmethod
    def count_unknown(self, ids: Sequence[int]) -> int:
        """How many of these ids stand for something the tokenizer has no piece for."""

    @property
    def mask_id(self) -> int:
        return self.num_pieces

    @property
    def num_inputs(self) -> int:
        """How many ids a network embeds: pieces, mask, and BOS / EOS where the tokenizer has none."""
        return max(self.mask_id, self.bos_id, self.eos_id) + 1

    @property
    def pad_id(self) -> int:
        return self.num_inputs

    def encode(self, text: str) -> list[int]:
        """Ids of one text; no BOS, no EOS."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; the mask, BOS and EOS are written by their names."""
        names = self.special_names
        parts: list[str] = []
        run: list[int] = []
        for token in ids:
            if token in names:
                parts += [self.decode_pieces(run)] if run else []
                parts.append(names[token])
                run = []
            else:
                run.append(int(token))
        parts += [self.decode_pieces(run)] if run else []
        return self.separator.join(parts)

    def join_pieces(self, text: str) -> str:
        """Words of a text given as space-separated pieces, the i6 label-level form: '▁AS ▁I ▁APPROACH ED' -> 'AS I APPROACHED'."""
        return text.replace(" ", "").replace("▁", " ").strip()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the vocabulary's file into `folder` (whole or not at all) and return its path."""
        target = Path(folder) / self.file_name
        write_text(target, self.content)
        return target


@dataclass(frozen=True)
class Vocab(Vocabulary):
    """A SentencePiece model and the special ids that follow its pieces."""

    model_proto: bytes = field(repr=False)
    _processor: Any = field(init=False, repr=False, compare=False)

    file_name: ClassVar[str] = MODEL_FILE
    separator: ClassVar[str] = " "

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
        file = sentence_pieces_file(path)
        proto = file.read_bytes()
        try:
            return cls(proto)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    @property
    def content(self) -> bytes:
        return self.model_proto

    @property
    def num_pieces(self) -> int:
        return int(self._processor.GetPieceSize())

    @property
    def unk_id(self) -> int:
        return int(self._processor.unk_id())

    @property
    def bos_id(self) -> int:
        own = int(self._processor.bos_id())
        return own if own >= 0 else self.num_pieces + 1

    @property
    def eos_id(self) -> int:
        own = int(self._processor.eos_id())
        return own if own >= 0 else self.num_pieces + 1 + (int(self._processor.bos_id()) < 0)

    @property
    def special_names(self) -> Mapping[int, str]:
        return {self.mask_id: "<mask>", self.bos_id: "<s>", self.eos_id: "</s>"}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Characters without a piece become `unk_id` (see `count_unknown`)."""
        return [list(ids) for ids in self._processor.Encode(list(texts), out_type=int, num_threads=1)]

    def decode_pieces(self, ids: Sequence[int]) -> str:
        return str(self._processor.DecodeIds(list(ids)))

    def count_unknown(self, ids: Sequence[int]) -> int:
        return sum(token == self.unk_id for token in ids)


def sentence_pieces_file(path: str | os.PathLike[str]) -> Path:
    """The SentencePiece model at a path: the file itself, or the one of a folder. ValueError where there is another tokenizer instead."""
    given = Path(path)
    file = given / MODEL_FILE if given.is_dir() else given
    others = [name for name in (TOKENIZER_FILE, *PAIR) if (given / name).is_file()]
    if file.name in (TOKENIZER_FILE, *PAIR) or (others and not file.is_file()):
        raise ValueError(
            f"{path}: a byte-level BPE tokenizer, which can score with published weights only; "
            "expected a SentencePiece model, RETURNN's datasets are built with no other"
        )
    return file


def train_vocab(
    texts: Sequence[str | os.PathLike[str]], *, size: int, out: str | os.PathLike[str], model_type: str = "unigram"
) -> Vocab:
    """Train a SentencePiece model of `size` pieces on text files (plain or .gz, one sentence a line) and save it in folder `out`.

    Every line counts, however long it is; of more than 500,000 lines that many are drawn. One thread, so that the same text gives the same
    bytes. Raises ValueError when the text has too few distinct pieces for `size`, for text that is not readable, and where `out` holds a
    vocabulary of other bytes; FileNotFoundError for a missing text.
    """
    if model_type not in ("unigram", "bpe"):
        raise ValueError(f"model type {model_type!r}; expected 'unigram' or 'bpe'")
    for path in texts:
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such text file")
    lines = _TrainingLines(texts)
    try:
        model = _train(lines, size, model_type)
    except ValueError:
        if lines.error is not None or lines.longest <= LINE_BYTES:
            raise
    if lines.longest > LINE_BYTES:  # rare: the text is read a second time then, and not beforehand every time
        model = _train(lines, size, model_type, max_sentence_length=lines.longest)
    vocab = Vocab(model)
    target = Path(out) / MODEL_FILE
    with lock(target):
        if target.exists() and target.read_bytes() != model:
            raise ValueError(
                f"{target}: exists and was trained otherwise; remove it, with what was made with it, or choose a new name"
            )
        vocab.save(out)
    return vocab


LINE_BYTES = 4192  # SentencePiece leaves longer lines out unless told otherwise


class _TrainingLines:
    """The lines of texts, as often as they are asked for; knows the longest, and what went wrong while SentencePiece took them."""

    def __init__(self, texts: Sequence[str | os.PathLike[str]]) -> None:
        self.texts = texts
        self.longest = 0  # bytes
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for line in read_lines(self.texts):
                # Lines with this sign, which it writes for what is unknown, SentencePiece would leave out too.
                text = line.replace("\u2585", " ")
                if 4 * len(text) > self.longest:
                    self.longest = max(self.longest, len(text.encode()))
                yield text
        except Exception as error:  # SentencePiece would make a RuntimeError of many lines of it
            self.error = error
            raise


def _train(lines: _TrainingLines, size: int, model_type: str, **more: Any) -> bytes:
    """The bytes of a SentencePiece model. It keeps what it was told, so it is told no default."""
    import sentencepiece

    buffer = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=buffer,
            vocab_size=size,
            model_type=model_type,
            character_coverage=1.0,
            input_sentence_size=500_000,
            shuffle_input_sentence=True,
            **more,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        if lines.error is not None:
            raise lines.error from None
        raise ValueError(
            f"SentencePiece could not make {size} pieces of this text: {str(error).splitlines()[-1]}"
        ) from None
    return buffer.getvalue()


def read_lines(texts: Sequence[str | os.PathLike[str]]) -> Iterator[str]:
    """Non-empty lines of text files, plain or .gz, without blanks at the ends. A broken .gz or wrong encoding names file and line."""
    for path in texts:
        for _, line in iterate_lines(path):
            if stripped := line.strip():
                yield stripped
