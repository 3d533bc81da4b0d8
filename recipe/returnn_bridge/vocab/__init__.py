"""Vocabularies convert between text and ids, and define the special ids of all models of this project.

    vocab = train_vocab(["train.txt.gz"], size=10240, out="vocab")       # or Vocab.load("vocab")
    ids = vocab.encode("he hoped there would be stew")
    vocab.decode(ids); vocab.count_unknown(ids)

Ids 0 .. V-1 are the tokenizer's pieces (V = `num_pieces`) and the mask id is m = V. BOS and EOS are pieces if the
tokenizer has them, otherwise they follow the mask. The padding id comes last and is never embedded, so that PAD and
MASK cannot coincide, as they do with some tokenizers that have neither.

`Vocab` is a SentencePiece model, which is used for training; vocab/bpe.py has the tokenizer of published weights, and
vocab/open.py opens either.
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
PAIR = ("vocab.json", "merges.txt")  # a byte-level BPE tokenizer in GPT-2's original two files


class Vocabulary(ABC):
    """The interface of vocabularies, independent of the tokenizer. Two with the same bytes are equal."""

    file_name: ClassVar[str]
    """Name of the vocabulary's file in a folder."""
    separator: ClassVar[str]
    """Text that `decode` puts between decoded pieces and the name of a special id."""

    @property
    @abstractmethod
    def content(self) -> bytes:
        """The bytes of the vocabulary's file."""

    @property
    @abstractmethod
    def num_pieces(self) -> int:
        """V, the number of the tokenizer's pieces, which are the ids that a network may predict."""

    @property
    @abstractmethod
    def bos_id(self) -> int: ...

    @property
    @abstractmethod
    def eos_id(self) -> int:
        """The id of EOS, which may equal that of BOS, as in GPT-2's vocabulary."""

    @property
    @abstractmethod
    def special_names(self) -> Mapping[int, str]:
        """Names of the special ids, as `decode` writes them."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, without BOS and EOS; faster than `encode` for each."""

    @abstractmethod
    def decode_pieces(self, ids: Sequence[int]) -> str:
        """The text of ids that are all pieces."""

    @abstractmethod
    def count_unknown(self, ids: Sequence[int]) -> int:
        """The number of ids that represent text without a piece."""

    @property
    def mask_id(self) -> int:
        return self.num_pieces

    @property
    def num_inputs(self) -> int:
        """The number of ids that a network embeds: pieces, mask, and BOS and EOS if they are no pieces."""
        return max(self.mask_id, self.bos_id, self.eos_id) + 1

    @property
    def pad_id(self) -> int:
        return self.num_inputs

    def encode(self, text: str) -> list[int]:
        """The ids of one text, without BOS and EOS."""
        return self.encode_batch([text])[0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, with the mask, BOS and EOS written as their names."""
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
        """Words of space-separated pieces (i6 label level): '▁AS ▁I ▁APPROACH ED' -> 'AS I APPROACHED'."""
        return text.replace(" ", "").replace("▁", " ").strip()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the vocabulary's file into `folder` atomically and return its path."""
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
        """Read a vocabulary folder (with `spm.model`) or a SentencePiece .model file. ValueError if it is neither."""
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
        piece = int(self._processor.bos_id())
        return piece if piece >= 0 else self.num_pieces + 1

    @property
    def eos_id(self) -> int:
        piece = int(self._processor.eos_id())
        return piece if piece >= 0 else self.num_pieces + 1 + (int(self._processor.bos_id()) < 0)

    @property
    def special_names(self) -> Mapping[int, str]:
        return {self.mask_id: "<mask>", self.bos_id: "<s>", self.eos_id: "</s>"}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, without BOS and EOS. Characters without a piece become `unk_id`."""
        return [list(ids) for ids in self._processor.Encode(list(texts), out_type=int, num_threads=1)]

    def decode_pieces(self, ids: Sequence[int]) -> str:
        return str(self._processor.DecodeIds(list(ids)))

    def count_unknown(self, ids: Sequence[int]) -> int:
        return sum(token == self.unk_id for token in ids)


def sentence_pieces_file(path: str | os.PathLike[str]) -> Path:
    """The SentencePiece model file at a path (file or folder). ValueError for a byte-level BPE tokenizer."""
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
    """Train a SentencePiece model of `size` pieces on text files (plain or .gz) and save it in the folder `out`.

    Lines of any length are used; of more than 500,000 lines that many are sampled. Training uses one thread, so that
    the same text gives the same bytes. ValueError if the text is too small for `size` or not readable, and if `out` has
    a different vocabulary; FileNotFoundError for a missing text.
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
    if lines.longest > LINE_BYTES:  # rare, so reading the text again then is cheaper than a first pass every time
        model = _train(lines, size, model_type, max_sentence_length=lines.longest)
    vocab = Vocab(model)
    target = Path(out) / MODEL_FILE
    with lock(target):
        if target.exists() and target.read_bytes() != model:
            raise ValueError(
                f"{target}: exists and was trained otherwise;"
                " remove it, with what was made with it, or choose a new name"
            )
        vocab.save(out)
    return vocab


LINE_BYTES = 4192  # SentencePiece's default max_sentence_length; it skips longer lines


class _TrainingLines:
    """An iterable over the lines of texts that records the longest line and any error during iteration."""

    def __init__(self, texts: Sequence[str | os.PathLike[str]]) -> None:
        self.texts = texts
        self.longest = 0  # bytes
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for line in read_lines(self.texts):
                # SentencePiece also skips lines with this character, which it uses for unknown text.
                text = line.replace("\u2585", " ")
                if 4 * len(text) > self.longest:
                    self.longest = max(self.longest, len(text.encode()))
                yield text
        except Exception as error:  # SentencePiece would turn it into a RuntimeError of many lines
            self.error = error
            raise


def _train(lines: _TrainingLines, size: int, model_type: str, **more: Any) -> bytes:
    """Train a SentencePiece model and return its bytes. They contain the options given, so defaults are not passed."""
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
    """The stripped non-empty lines of text files, plain or .gz; errors as in `iterate_lines`."""
    for path in texts:
        for _, line in iterate_lines(path):
            if stripped := line.strip():
                yield stripped
