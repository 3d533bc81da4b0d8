"""Tokenizers of GPT-2's kind: text is given back, ids are the library's, both forms of the files agree, broken ones are refused in a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_model, random_text
from diffusion_lm.model import LanguageModel, fingerprint
from rescore.cli import main
from returnn_bridge.datasets import lm_dataset_dict, ogg_zip_dataset_dict
from returnn_bridge.token_store import build_store, default_store
from returnn_bridge.vocab import Vocab
from returnn_bridge.vocab.bpe import END, BpeVocab
from returnn_bridge.vocab.open import load_vocab, vocab_file

TEXTS = [
    "the king said",
    " the king",
    "",
    " ",
    "THE KING!",
    "Zoë läuft 3 km\n\nweiter\t…",
    "漢字 👩‍🚀",
    "<|endoftext|> a <mask>",
]


@pytest.fixture(scope="module")
def bpe(gpt2_folder):
    return BpeVocab.load(gpt2_folder)


@settings(max_examples=100)
@given(text=st.text(max_size=40) | st.text(alphabet="the kingsaid<|>", max_size=40))
def test_every_text_comes_back(bpe, text):
    ids = bpe.encode(text)
    assert bpe.decode(ids) == text
    assert all(0 <= token < bpe.num_pieces and token != bpe.eos_id for token in ids)
    assert bpe.count_unknown(ids) == 0


def test_special_ids_are_those_of_published_models(bpe):
    """END is the last piece and both ends; the mask is the last id a network embeds; the padding id is another one."""
    count = 256 + 60 + 1
    assert (bpe.num_pieces, bpe.bos_id, bpe.eos_id) == (count, count - 1, count - 1)
    assert (bpe.mask_id, bpe.num_inputs, bpe.pad_id) == (count, count + 1, count + 1)
    the = bpe.encode("the")
    assert bpe.decode([bpe.bos_id, *the, bpe.mask_id, *bpe.encode(" a"), bpe.eos_id]) == f"{END}the<mask> a{END}"


def test_ids_are_those_of_the_libraries(bpe, gpt2_folder, gpt2_pair):
    import tokenizers
    import transformers

    own = tokenizers.Tokenizer.from_file(str(gpt2_folder / "tokenizer.json"))
    lines = [*TEXTS, *random_text(50).splitlines()]
    for text, ids in zip(lines, bpe.encode_batch(lines)):
        assert ids == bpe.encode(text)
        if END not in text:
            assert ids == own.encode(text).ids
    for folder in (gpt2_folder, gpt2_pair):
        theirs = transformers.GPT2TokenizerFast.from_pretrained(folder)
        found = theirs(lines, split_special_tokens=True)["input_ids"]
        assert found == bpe.encode_batch(lines)
        assert theirs.bos_token_id == theirs.eos_token_id == bpe.eos_id


def test_two_files_are_the_same_tokenizer(bpe, gpt2_pair, tmp_path):
    pair = BpeVocab.load(gpt2_pair)
    lines = [*TEXTS, *random_text(50).splitlines()]
    assert pair.encode_batch(lines) == bpe.encode_batch(lines)
    assert (pair.num_pieces, pair.eos_id) == (bpe.num_pieces, bpe.eos_id)
    assert pair.save(tmp_path) == tmp_path / "tokenizer.json"
    assert BpeVocab.load(tmp_path) == pair == BpeVocab.load(tmp_path / "tokenizer.json")
    windows = tmp_path / "windows"
    windows.mkdir()
    (windows / "vocab.json").write_bytes((gpt2_pair / "vocab.json").read_bytes())
    (windows / "merges.txt").write_bytes((gpt2_pair / "merges.txt").read_bytes().replace(b"\n", b"\r\n"))
    assert BpeVocab.load(windows) == pair


def test_the_tokenizer_says_whether_a_blank_comes_first(bpe, gpt2_folder, gpt2_pair, tmp_path):
    assert not bpe.adds_blank
    assert bpe.encode("the king") != bpe.encode(" the king")
    tree = json.loads((gpt2_folder / "tokenizer.json").read_text())
    tree["pre_tokenizer"]["add_prefix_space"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    blank = BpeVocab.load(tmp_path)
    assert blank.adds_blank
    assert blank.encode("the king") == bpe.encode(" the king")
    # Beside the two files there is no other place to say it.
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "pair").mkdir(exist_ok=True)
        (tmp_path / "pair" / name).write_bytes((gpt2_pair / name).read_bytes())
    (tmp_path / "pair" / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    assert BpeVocab.load(tmp_path / "pair").encode("the king") == blank.encode("the king")


def test_what_a_tokenizer_file_asks_for_beside_ids_is_not_done(bpe, gpt2_folder, tmp_path):
    tree = json.loads((gpt2_folder / "tokenizer.json").read_text())
    tree["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    tree["padding"] = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    tree["padding"] |= {"pad_type_id": 0, "pad_token": "!"}
    special = {"SpecialToken": {"id": END, "type_id": 0}}
    tree["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {END: {"id": END, "ids": [bpe.eos_id], "tokens": [END]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    assert BpeVocab.load(tmp_path).encode_batch(TEXTS) == bpe.encode_batch(TEXTS)


def set_in(tree, path, value):
    *sections, name = path.split(".")
    for section in sections:
        tree = tree[section]
    if value is None:
        del tree[name]
    else:
        tree[name] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model", None, "not a tokenizer.json"),
        ("model.merges", "/etc/passwd", "not a tokenizer.json"),
        ("model.dropout", 0.1, "BPE with dropout 0.1; expected byte-level BPE without"),
        (
            "model",
            {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
            "kind WordLevel; expected byte-level BPE",
        ),
        ("model.vocab.zzz", 7, "318 pieces with ids 0 to 316"),
        ("model.vocab.zzz", 400, "318 pieces with ids 0 to 400; expected each of 0 to 317 once"),
        ("normalizer", {"type": "Lowercase"}, "decode to another text"),
        ("decoder", {"type": "Fuse"}, "decode to another text"),
        ("pre_tokenizer", {"type": "Whitespace"}, "decode to another text"),
    ],
)
def test_other_tokenizers_are_refused(gpt2_folder, tmp_path, path, value, message):
    tree = json.loads((gpt2_folder / "tokenizer.json").read_text())
    set_in(tree, path, value)
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    refused(tmp_path, f"tokenizer.json: .*{message}")


def test_a_tokenizer_without_the_end_of_text_is_refused(gpt2_folder, tmp_path):
    text = (gpt2_folder / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace(END, "</s>"))
    refused(tmp_path, r"no piece '<\|endoftext\|>'")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", b"[1]", "vocab.json: got list"),
        ("vocab.json", b'{"a": "b"}', r"vocab.json: expected pieces with ids 0 to 0"),
        ("vocab.json", b'{"a": 4000000000}', r"vocab.json: expected pieces"),
        ("vocab.json", b"\xff", "vocab.json:1: .*UTF-8"),
        ("vocab.json", b"{" * 3, "vocab.json:1: invalid JSON"),
        ("merges.txt", b"#version: 0.2\nt h e\n", "merges.txt:2: got 't h e'; expected two pieces"),
        ("merges.txt", b"t zz\n", "merges.txt:1: got 't zz'"),
        ("merges.txt", b"! !\n", "merges.txt:1: got '! !'; .* that make a third"),
        ("tokenizer_config.json", b'{"bos_token": "<s>"}', "bos_token '<s>'; expected"),
        ("tokenizer_config.json", b'{"eos_token": {"content": "</s>"}}', "eos_token '</s>'; expected"),
        ("tokenizer_config.json", b"1", "tokenizer_config.json: got int"),
    ],
)
def test_broken_files_are_named(gpt2_pair, tmp_path, name, content, message):
    for each in ("vocab.json", "merges.txt"):
        (tmp_path / each).write_bytes((gpt2_pair / each).read_bytes())
    (tmp_path / name).write_bytes(content)
    refused(tmp_path, message)


def test_settings_beside_a_tokenizer_must_agree_with_it(gpt2_folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((gpt2_folder / "tokenizer.json").read_bytes())
    settings_file = tmp_path / "tokenizer_config.json"
    settings_file.write_text(json.dumps({"model_max_length": 1024, "add_prefix_space": False, "bos_token": END}))
    assert not BpeVocab.load(tmp_path).adds_blank
    settings_file.write_text('{"add_prefix_space": true}')
    refused(tmp_path, "tokenizer_config.json: add_prefix_space True; expected False")


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_vocab(path)
    assert "\n" not in str(caught.value)


def test_what_lies_at_a_path_decides(vocab, vocab_folder, gpt2_folder, gpt2_pair, tmp_path):
    for path in (vocab_folder, vocab_folder / "spm.model"):
        assert load_vocab(path) == vocab
    for path in (gpt2_folder, gpt2_folder / "tokenizer.json"):
        assert isinstance(load_vocab(path), BpeVocab)
    assert isinstance(load_vocab(gpt2_pair), BpeVocab)
    assert vocab_file(gpt2_folder).name == "tokenizer.json"
    refused(gpt2_pair / "vocab.json", "expected the folder of vocab.json and merges.txt")
    refused(gpt2_pair / "merges.txt", "expected the folder of vocab.json and merges.txt")
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(FileNotFoundError, match="no (such )?vocabulary; expected"):
            load_vocab(path)
    vocab.save(tmp_path)
    load_vocab(gpt2_folder).save(tmp_path)
    refused(tmp_path, "spm.model and tokenizer.json; expected one of")


def test_without_the_library_there_is_one_line(gpt2_folder, gpt2_pair, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for folder in (gpt2_folder, gpt2_pair):
        refused(folder, "needs the package tokenizers .*pip install tokenizers")


def test_a_model_folder_brings_its_tokenizer_along(bpe, tmp_path):
    model = random_model(bpe, {"name": "block", "block_size": 1})
    model.save(tmp_path / "model")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    again = LanguageModel.load(tmp_path / "model")
    assert again.vocab == bpe
    first, second = (
        own.family.nelbo(own.network, own.sentences(["the king said", ""]), None) for own in (model, again)
    )
    assert first.tolist() == second.tolist()
    before = fingerprint(tmp_path / "model")
    tokenizer = tmp_path / "model" / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\n")
    assert fingerprint(tmp_path / "model") != before


def test_training_takes_a_sentence_piece_model_only(gpt2_folder, gpt2_pair, text_file, tmp_path, capsys):
    message = "byte-level BPE tokenizer.*expected a SentencePiece model"

    def build_all(path: Path) -> Iterator[Callable[[], object]]:
        yield lambda: Vocab.load(path)
        yield lambda: lm_dataset_dict([text_file], path)
        yield lambda: ogg_zip_dataset_dict(["dev.zip"], path)
        yield lambda: default_store([text_file], path)
        yield lambda: build_store([text_file], path, tmp_path / "store.hdf")

    for path in (gpt2_folder, gpt2_pair, gpt2_folder / "tokenizer.json"):
        for build in build_all(path):
            with pytest.raises(ValueError, match=message):
                build()
    for command in (
        ["tokenize", text_file, "--vocab", gpt2_folder],
        [
            "train",
            "--preset",
            "demo_ar",
            "--out",
            tmp_path / "run",
            f"data.vocab={gpt2_folder}",
            f"data.text=[{text_file}]",
        ],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(list(map(str, command)))
        error = capsys.readouterr().err
        assert stopped.value.code == 1
        assert error.count("\n") == 1 and "expected a SentencePiece model" in error
    assert not list(tmp_path.iterdir())
