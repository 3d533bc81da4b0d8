"""The spelling of a special token inside a text is plain text for every kind of tokenizer, and other texts are encoded as ever."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from huggingface_world import SPECIALS, make_bert, make_gpt2, save_bpe, save_wordpiece
from rescore.lms.huggingface import load_huggingface
from rescore.lms.huggingface_text import PlainText

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

NAMES = ["<|endoftext|>", "<s>", "</s>", "<pad>", "<mask>", *SPECIALS]


def saved(folder, model, pre_tokenizer, **names):
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)


def bpe(folder):
    save_bpe(folder, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")


def bpe_marked_as_ordinary(folder):
    """As in tokenizer.json files whose special tokens are added tokens and not marked as special."""
    save_bpe(folder, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text())
    assert tree["added_tokens"]
    for token in tree["added_tokens"]:
        token["special"] = False
    path.write_text(json.dumps(tree))


def bpe_that_merges_a_special_token(folder):
    merges = [("<", "/"), ("</", "s"), ("</s", ">")]
    pieces = ["<s>", *"</s>abcdehiknorstuwABCDEKLMNOPSTU[]|", *(left + right for left, right in merges)]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys([*pieces, "Ġ"]))}
    saved(
        folder,
        tokenizers.models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True),
        tokenizers.pre_tokenizers.Split(" ", "merged_with_next"),
        bos_token="<s>",
        eos_token="</s>",
    )


def wordpiece_of_whole_words(folder):
    """Words end at spaces only, so "[MASK]" is one and is in the vocabulary."""
    pieces = [*SPECIALS, "the", "king", "[", "##M", "##A", "##S", "##K", "##]"]
    saved(
        folder,
        tokenizers.models.WordPiece({piece: place for place, piece in enumerate(pieces)}, unk_token="[UNK]"),
        tokenizers.pre_tokenizers.WhitespaceSplit(),
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS)),
    )


def unigram(folder):
    """As SentencePiece's: control symbols are pieces, with the best of all scores."""
    controls = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<pad>", 0.0), ("<mask>", 0.0)]
    pieces = [(piece, -3.0) for piece in "▁abcdefghijklmnopqrstuvwxyz</>"] + [("▁the", -1.0), ("▁king", -1.0)]
    saved(
        folder,
        tokenizers.models.Unigram([*controls, *pieces], unk_id=0),
        tokenizers.pre_tokenizers.Metaspace(),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        mask_token="<mask>",
    )


KINDS = [
    bpe,
    bpe_marked_as_ordinary,
    bpe_that_merges_a_special_token,
    save_wordpiece,
    wordpiece_of_whole_words,
    unigram,
]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    request.param(folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return transformers.AutoTokenizer.from_pretrained(folder)


def unmarked(ids, marks):
    return [token for token, mark in zip(ids, marks, strict=True) if not mark]


@pytest.mark.parametrize("add_special", [True, False])
@pytest.mark.parametrize("pattern", ["{}", "the {} king", "the{}king", "{}{}", " {} the "])
def test_a_special_token_in_a_text_is_plain_text(tokenizer, pattern, add_special):
    plain_text = PlainText(tokenizer)
    named = {tokenizer.convert_tokens_to_ids(name) for name in tokenizer.all_special_tokens}
    # What GPT-2 calls its unknown token is its only special token, and never stands for an unknown word.
    unknown = set() if tokenizer.unk_token == tokenizer.eos_token else {tokenizer.unk_token_id}
    for name in NAMES:
        text = pattern.replace("{}", name)
        (ids,), (marks,) = plain_text.encode([text], add_special=add_special, where="here")
        assert not (named - unknown).intersection(unmarked(ids, marks))
        assert len(unmarked(ids, marks)) > 0


@settings(max_examples=30)
@given(words=st.lists(st.sampled_from(["the", "king", "a", "</", "s>", "MASK", "[", "said"]), max_size=6))
def test_other_texts_are_encoded_as_the_tokenizer_does(tokenizer, words):
    text = " ".join(words)
    (ids,), (marks,) = PlainText(tokenizer).encode([text], add_special=False, where="here")
    backend = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    assert ids == backend.encode(text, add_special_tokens=False).ids
    assert marks == [0] * len(ids)


def test_the_tokens_around_a_text_stay(tmp_path):
    save_wordpiece(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = ["the king", "the [MASK] king", "[SEP]", ""]
    for ids, marks in zip(*PlainText(tokenizer).encode(texts, add_special=True, where="here"), strict=True):
        assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
        assert (marks[0], marks[-1], sum(marks)) == (1, 1, 2)


def test_a_tokenizer_that_can_not_tell_gives_one_line(tmp_path):
    """One of Python, not of the library `tokenizers`, that looks words up in a list with the special tokens in it."""
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIALS, "the", "king"]))

    class Words(transformers.PythonBackend):
        def __init__(self, **options):
            self.words = [*SPECIALS, "the", "king"]
            super().__init__(unk_token="[UNK]", mask_token="[MASK]", **options)

        vocab_size = property(lambda self: len(self.words))

        def get_vocab(self):
            return {word: place for place, word in enumerate(self.words)}

        def _tokenize(self, text, **options):
            return text.split()

        def _convert_token_to_id(self, token):
            return self.get_vocab().get(token, 1)

        def _convert_id_to_token(self, index):
            return self.words[index]

    plain_text = PlainText(Words())
    assert plain_text.encode(["the queen"], add_special=False, where="here") == ([[5, 1]], [[0, 0]])
    with pytest.raises(ValueError, match=r"^here, text 'the \[MASK\] king': .*'\[MASK\]'; expected plain text$"):
        plain_text.encode(["the king", "the [MASK] king"], add_special=False, where="here")


def test_scores_of_a_spelled_special_token_are_those_of_its_letters(tmp_path):
    for make, token in ((make_gpt2, "</s>"), (make_bert, "[MASK]")):
        folder = tmp_path / make.__name__
        folder.mkdir()
        plain, spelled = load_huggingface(make(folder)).score_texts("u", ["the king", f"the {token} king"])
        assert spelled.num_tokens - plain.num_tokens >= 3  # brackets and letters, not one token
