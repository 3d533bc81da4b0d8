"""The vocabulary of published weights: a byte-level BPE tokenizer like GPT-2's, read by Hugging Face's library.

    vocab = BpeVocab.load("gpt2")            # a tokenizer.json, or a folder of it or of vocab.json and merges.txt
    ids = vocab.encode("he hoped there would be stew")
    assert vocab.decode(ids) == "he hoped there would be stew"

<|endoftext|> is both BOS and EOS (id 50256 of GPT-2's 50257 pieces) and the mask follows the pieces (50257), as in the
code of MDLM and BD3-LM. Their padding id, which coincides with their mask, is not used.

Every byte is a piece, so there is no unknown text, and `decode` inverts `encode`. "<|endoftext|>" within a text is
encoded as characters. Whether a blank is inserted before the first word depends on the tokenizer's `add_prefix_space`.
GPT-2 inserts none, so the first word of a sentence is "the" and not " the", as published models saw it after
<|endoftext|>.

A tokenizer file is data and cannot name other files or code. Its truncation and padding settings are switched off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from returnn_bridge.files import iterate_lines, one_line, quoted, read_json_object
from returnn_bridge.vocab import PAIR, TOKENIZER_FILE, Vocabulary

END = "<|endoftext|>"
SETTINGS_FILE = "tokenizer_config.json"  # written by the transformers library beside the tokenizer
# Contains every byte that UTF-8 text can have: all one- and two-byte characters, and each first byte of longer ones.
PROBE = "".join(map(chr, (*range(0x801), *range(0x1000, 0x110000, 0x1000))))


@dataclass(frozen=True)
class BpeVocab(Vocabulary):
    """A byte-level BPE tokenizer (the text of a tokenizer.json) and the mask that follows its pieces."""

    tokenizer_json: bytes = field(repr=False)
    _tokenizer: Any = field(init=False, repr=False, compare=False)

    file_name: ClassVar[str] = TOKENIZER_FILE
    separator: ClassVar[str] = ""  # because pieces include their blanks

    def __post_init__(self) -> None:
        object.__setattr__(self, "_tokenizer", _checked(self.tokenizer_json))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BpeVocab:
        """Read a folder or a tokenizer.json.

        ValueError for an invalid file and for one that disagrees with the tokenizer_config.json beside it.
        """
        given = Path(path)
        folder, file = (given, given / TOKENIZER_FILE) if given.is_dir() else (given.parent, given)
        if file.name in PAIR:
            raise ValueError(
                f"{file}: one of the two files of a tokenizer; expected the folder of {' and '.join(PAIR)}"
            )
        settings = _settings(folder / SETTINGS_FILE)
        if not file.is_file() and all((folder / name).is_file() for name in PAIR):
            file, content = folder, _of_pair(folder, bool(settings.get("add_prefix_space", False)))
        else:
            content = file.read_bytes()
        try:
            vocab = cls(content)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        _check_settings(settings, vocab, folder / SETTINGS_FILE)
        return vocab

    @property
    def content(self) -> bytes:
        return self.tokenizer_json

    @cached_property
    def num_pieces(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @cached_property
    def bos_id(self) -> int:
        return int(self._tokenizer.token_to_id(END))

    @property
    def eos_id(self) -> int:
        return self.bos_id

    @property
    def adds_blank(self) -> bool:
        """Whether a blank is inserted before the first word of a text."""
        return self.encode("a") == self.encode(" a")

    @property
    def special_names(self) -> Mapping[int, str]:
        return {self.mask_id: "<mask>", self.eos_id: END}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def decode_pieces(self, ids: Sequence[int]) -> str:
        """The text of ids that are all pieces. Incomplete characters, which a model can sample, become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def count_unknown(self, ids: Sequence[int]) -> int:
        """Always 0, because every byte is a piece."""
        return 0


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ValueError(
            f"a byte-level BPE tokenizer needs the package tokenizers ({error}); pip install tokenizers"
        ) from None
    return tokenizers


def _checked(tokenizer_json: bytes) -> Any:
    """The library's tokenizer.

    ValueError unless it is deterministic, keeps all text, has ids 0 .. V-1 and the piece <|endoftext|>.
    """
    library = _library()
    try:
        tokenizer = library.Tokenizer.from_str(tokenizer_json.decode("utf-8"))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises Exception itself, and a panic of Rust is not even one
        raise ValueError(f"not a tokenizer.json ({one_line(error, 200)})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # their names within a text are encoded as text
    kind = type(tokenizer.model).__name__
    if kind != "BPE" or tokenizer.model.dropout:
        found = f"{kind} with dropout {tokenizer.model.dropout:g}" if kind == "BPE" else kind
        raise ValueError(f"a tokenizer of kind {found}; expected byte-level BPE without dropout, as GPT-2's")
    ids = sorted(tokenizer.get_vocab(with_added_tokens=True).values())
    if ids != list(range(len(ids))):
        raise ValueError(f"{len(ids)} pieces with ids {ids[0]} to {ids[-1]}; expected each of 0 to {len(ids) - 1} once")
    if tokenizer.token_to_id(END) is None:
        raise ValueError(f"no piece {END!r}; expected that of GPT-2, which is BOS and EOS")
    again = tokenizer.decode(tokenizer.encode(PROBE, add_special_tokens=False).ids, skip_special_tokens=False)
    if again not in (PROBE, f" {PROBE}"):
        raise ValueError("the ids of a text decode to another text; expected byte-level BPE, which keeps it")
    return tokenizer


def _of_pair(folder: Path, add_prefix_space: bool) -> bytes:
    """The content of a tokenizer.json that is equal to GPT-2's two files in a folder."""
    library = _library()
    vocab, merges = (folder / name for name in PAIR)
    pieces = read_json_object(vocab)
    if not all(type(number) is int and 0 <= number < len(pieces) for number in pieces.values()):
        raise ValueError(f"{vocab}: expected pieces with ids 0 to {len(pieces) - 1}")
    pairs = []
    for number, line in iterate_lines(merges):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not {*pair, "".join(pair)} <= pieces.keys():
            raise ValueError(
                f"{merges}:{number}: got {quoted(line, 80)}; expected two pieces of {vocab.name} that make a third"
            )
        pairs.append((pair[0], pair[1]))
    tokenizer = library.Tokenizer(library.models.BPE(vocab=pieces, merges=pairs))
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = library.decoders.ByteLevel()
    if END in pieces:
        tokenizer.add_special_tokens([library.AddedToken(END, normalized=False)])
    return str(tokenizer.to_str()).encode()


def _settings(file: Path) -> dict[str, Any]:
    """The tokenizer_config.json beside a tokenizer, or {}; in transformers its settings take precedence."""
    return read_json_object(file) if file.is_file() else {}


def _check_settings(settings: Mapping[str, Any], vocab: BpeVocab, file: Path) -> None:
    actual = {"add_prefix_space": vocab.adds_blank, "bos_token": END, "eos_token": END}
    for name, expected in actual.items():
        value = settings.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if value is not None and value != expected:
            raise ValueError(
                f"{file}: {name} {quoted(value)}; expected {expected!r}, as the tokenizer beside it has it"
            )
