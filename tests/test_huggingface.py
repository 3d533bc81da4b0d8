"""Hugging Face language models: equal to an independent loop over prefixes or masks, whatever shares the batch; nothing fetched, nothing run."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_text
from rescore.huggingface import HuggingFaceCausalScorer, HuggingFaceMaskedScorer, load_huggingface

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXTS = [
    "the king said",
    "the old king said to the child",
    "",
    "a",
    "it went in the old house of stone and it was great",
]
SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def save_bpe(folder: Path, **specials: str) -> int:
    """A byte-level BPE tokenizer as GPT-2's; returns the number of its tokens.

    The merges are written down: training breaks ties by chance, and tests need the same tokens in every run.
    """
    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("i", "n"),
        ("Ġ", "k"),
        ("in", "g"),
        ("Ġk", "ing"),
        ("s", "a"),
        ("i", "d"),
    ]
    pieces = [*sorted(set(specials.values())), *symbols, *(left + right for left, right in merges)]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained(folder)
    return len(pieces)


def save_wordpiece(folder: Path) -> int:
    """A tokenizer as BERT's, which knows the words of `random_text` but "child" and "stone"; it asks for truncation."""
    pieces = ["##s", "##d", *sorted(set(random_text(200).split()) - {"child", "stone"})]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(
            {piece: place for place, piece in enumerate([*SPECIALS, *pieces])}, unk_token="[UNK]"
        )
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", SPECIALS.index("[CLS]")), ("[SEP]", SPECIALS.index("[SEP]"))]
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.enable_truncation(4)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return len(SPECIALS) + len(pieces)


def save_model(folder: Path, kind: type, config: object) -> Path:
    """Random weights large enough that scores differ."""
    torch.manual_seed(0)
    config.initializer_range = 0.5  # type: ignore[attr-defined]
    kind(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    size = save_bpe(folder, bos_token="<s>", eos_token="</s>")
    config = transformers.GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    return save_model(folder, transformers.GPT2LMHeadModel, config)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    config = transformers.BertConfig(vocab_size=save_wordpiece(folder), max_position_embeddings=32, **SIZE)
    return save_model(folder, transformers.BertForMaskedLM, config)


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roberta")
    size = save_wordpiece(folder)
    config = transformers.RobertaConfig(vocab_size=size, max_position_embeddings=20, pad_token_id=0, **SIZE)
    return save_model(folder, transformers.RobertaForMaskedLM, config)


def values(scores):
    return [score.log_prob for score in scores]


def causal_by_hand(folder, text, *, eos=True):
    """The chain rule, each factor from its own forward pass over the prefix alone."""
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    ids += [tokenizer.eos_token_id] * eos
    with torch.no_grad():
        steps = [
            model(torch.tensor([ids[:end]])).logits[0, -1].log_softmax(-1)[ids[end]].item()
            for end in range(1, len(ids))
        ]
    return sum(steps), len(steps)


def pll_by_hand(folder, text):
    """One mask at a time, one pass at a time, no padding."""
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float64).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pieces = tokenizer.backend_tokenizer
    pieces.no_truncation()
    ids = pieces.encode(text).ids
    total = 0.0
    for place in range(1, len(ids) - 1):
        masked = [*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]
        with torch.no_grad():
            total += model(torch.tensor([masked])).logits[0, place].log_softmax(-1)[ids[place]].item()
    return total, len(ids) - 2


@pytest.mark.parametrize("eos", [True, False])
def test_causal_score_is_the_chain_rule(gpt2, eos):
    scorer = HuggingFaceCausalScorer(gpt2, score_eos=eos)
    for text, score in zip(TEXTS, scorer.score_texts("u", TEXTS), strict=True):
        expected, tokens = causal_by_hand(gpt2, text, eos=eos)
        assert score.log_prob == pytest.approx(expected, abs=1e-3)  # float32 against float64, logits of size 10
        assert (score.num_tokens, score.exact, score.standard_error) == (tokens, True, 0.0)
        assert score.num_passes == (1 if tokens else 0)
    assert scorer.describe()["scores_eos"] is eos
    assert scorer.describe()["start"] == "<s>"


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_masked_score_is_one_mask_at_a_time(kind, request):
    folder = request.getfixturevalue(kind)
    for text, score in zip(TEXTS, HuggingFaceMaskedScorer(folder).score_texts("u", TEXTS), strict=True):
        expected, tokens = pll_by_hand(folder, text)
        assert score.log_prob == pytest.approx(expected, abs=1e-3)
        assert (score.num_passes, score.num_tokens, score.exact) == (tokens, tokens, False)


def test_without_bos_a_sentence_starts_with_eos_and_then_with_cls(tmp_path, bert):
    size = save_bpe(tmp_path, eos_token="</s>")
    config = transformers.GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    save_model(tmp_path, transformers.GPT2LMHeadModel, config)
    assert load_huggingface(tmp_path).describe()["start"] == "</s>"
    folder = tmp_path / "decoder"
    folder.mkdir()
    config = transformers.BertConfig(vocab_size=save_wordpiece(folder), is_decoder=True, **SIZE)
    scorer = load_huggingface(save_model(folder, transformers.BertLMHeadModel, config))
    assert (scorer.describe()["start"], scorer.describe()["scores_eos"]) == ("[CLS]", False)
    assert values(scorer.score_texts("u", [""])) == [0.0]  # no EOS in this tokenizer: nothing is left to score


@pytest.mark.parametrize("kind", ["gpt2", "bert", "roberta"])
def test_scores_do_not_depend_on_batch_mates_order_or_budget(kind, request):
    folder = request.getfixturevalue(kind)
    scorer = load_huggingface(folder)
    alone = [scorer.score_texts("u", [text])[0] for text in TEXTS]
    together = scorer.score_texts("u", TEXTS)
    for options in ({}, {"batch_tokens": 1}, {"batch_tokens": 40}):
        turned = load_huggingface(folder, **options).score_texts("u", [*reversed(TEXTS), TEXTS[1]])
        assert values(turned) == pytest.approx([*reversed(values(alone)), alone[1].log_prob], abs=1e-4)
    assert values(together) == pytest.approx(values(alone), abs=1e-4)


@pytest.fixture(scope="module")
def loaded(bert, gpt2):
    return [load_huggingface(bert), load_huggingface(gpt2)]


@settings(max_examples=15)
@given(lists=st.lists(st.lists(st.sampled_from([*TEXTS, "the king went", "Ω </s> [MASK]"]), max_size=4), max_size=3))
def test_pooled_lists_score_as_single_texts(loaded, lists):
    for scorer in loaded:
        found = scorer.score_lists([(f"u{place}", texts) for place, texts in enumerate(lists)])
        assert [len(scores) for scores in found] == [len(texts) for texts in lists]
        for text, score in zip(itertools.chain(*lists), itertools.chain(*found)):
            alone = scorer.score_texts("u", [text])[0]
            assert score.log_prob == pytest.approx(alone.log_prob, abs=1e-4)
            assert score.details() == alone.details()


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_forward_pass_keeps_to_the_budget_and_uses_it(kind, request):
    scorer = load_huggingface(request.getfixturevalue(kind), batch_tokens=200)
    shapes: list[torch.Size] = []
    scorer.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    scorer.score_texts("u", [" ".join(line.split()[:7]) for line in random_text(90).splitlines()])
    sizes = [rows * width for rows, width in shapes]
    assert sum(rows for rows, _ in shapes) == scorer.rows_run
    assert all(rows * width <= 200 or rows == 1 for rows, width in shapes)
    assert sum(size > 150 for size in sizes) > 0.8 * len(sizes)


def test_texts_that_differ_in_the_masked_word_share_that_pass(bert):
    scorer = HuggingFaceMaskedScorer(bert)
    scores = scorer.score_texts("u", ["the king said", "the man said", "the king said"])
    assert [score.num_passes for score in scores] == [3, 3, 3]
    assert scorer.rows_run == 5


def test_special_tokens_in_a_text_are_plain_text(bert, gpt2):
    for folder, token in ((bert, "[MASK]"), (gpt2, "</s>")):
        scorer = load_huggingface(folder)
        plain, spelled = scorer.score_texts("u", ["the king", f"the {token} king"])
        assert spelled.num_tokens - plain.num_tokens >= 3  # brackets and letters, not one token


def test_unknown_tokens_are_counted_and_the_description_stays_as_it_was(bert, gpt2):
    scorer = HuggingFaceMaskedScorer(bert)
    before = scorer.describe()
    scorer.score_texts("u", ["the child said", "the child said", "stone"])
    assert scorer.counts() == {"tokens": 7, "oov_tokens": 3}
    assert scorer.describe() == before == json.loads(json.dumps(before))
    bytes_know_all = HuggingFaceCausalScorer(gpt2)
    bytes_know_all.score_texts("u", ["Ω child"])
    assert bytes_know_all.counts()["oov_tokens"] == 0


def test_the_architectures_field_chooses_the_class(gpt2, bert, tmp_path):
    assert isinstance(load_huggingface(gpt2, name="lm"), HuggingFaceCausalScorer)
    assert isinstance(load_huggingface(bert), HuggingFaceMaskedScorer)
    assert (load_huggingface(gpt2, name="lm").name, load_huggingface(bert).name) == ("lm", bert.name)
    with pytest.raises(ValueError, match=r"BertForMaskedLM; expected a causal one"):
        HuggingFaceCausalScorer(bert)
    with pytest.raises(ValueError, match=r"GPT2LMHeadModel; expected a masked one"):
        HuggingFaceMaskedScorer(gpt2)
    for names in (["T5ForConditionalGeneration"], ["XLMWithLMHeadModel"], ["A", "B"], [], None, [3]):
        (tmp_path / "config.json").write_text(json.dumps({"architectures": names}))
        with pytest.raises(ValueError, match=r"config\.json: architecture.*expected"):
            load_huggingface(tmp_path)


def test_the_fingerprint_changes_with_the_weights(gpt2, tmp_path):
    size = save_bpe(tmp_path, bos_token="<s>", eos_token="</s>")
    config = transformers.GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    torch.manual_seed(1)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert load_huggingface(tmp_path).describe()["model"] != load_huggingface(gpt2).describe()["model"]
    assert load_huggingface(gpt2).describe() == load_huggingface(gpt2).describe()


def copied(source: Path, target: Path) -> Path:
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def changed_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def without_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "ln_1.weight" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def only_a_vocabulary(folder: Path) -> None:
    (folder / "vocab.json").write_text(
        json.dumps(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    )
    without_tokenizer(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (pickled, r"pytorch_model\.bin is pickled data.*AutoModelForCausalLM\.from_pretrained\(.*save_pretrained"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"no weights as safetensors"),
        (truncated, r"can not load it"),
        (without_a_weight, r"1 weights are missing.*ln_1\.weight"),
        (lambda folder: changed_config(folder, n_layer=3), r"weights are missing"),
        (lambda folder: changed_config(folder, n_embd=32), r"can not load it|another shape"),
        (without_tokenizer, r"no tokenizer; expected tokenizer\.json"),
        (only_a_vocabulary, r"no tokenizer; expected .*vocab\.json and merges\.txt"),
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json:1: invalid JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), r"holds an adapter"),
        (lambda folder: changed_config(folder, model_type="ours", auto_map={"AutoConfig": "x.Y"}), r"can not load it"),
    ],
)
def test_spoiled_folders_give_one_line_and_run_no_code(gpt2, tmp_path, spoil, message):
    folder = copied(gpt2, tmp_path)
    (folder / "x.py").write_text("raise SystemExit('code of the folder was run')")
    spoil(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_huggingface(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_causal_head_on_an_encoder_is_refused(tmp_path):
    config = transformers.BertConfig(vocab_size=save_wordpiece(tmp_path), **SIZE)
    save_model(tmp_path, transformers.BertLMHeadModel, config)
    with pytest.raises(ValueError, match="looks at later tokens"):
        load_huggingface(tmp_path)


@pytest.mark.parametrize(("kind", "fits"), [("gpt2", 63), ("bert", 30), ("roberta", 17)])  # with start or CLS and SEP
def test_too_long_is_an_error_and_the_longest_fits(kind, fits, request):
    scorer = load_huggingface(request.getfixturevalue(kind))
    words = " the" * fits
    assert scorer.score_texts("u", [words])[0].num_tokens == fits + (kind == "gpt2")
    with pytest.raises(
        ValueError, match=r"utterance 'u7', text ' the the .*tokens with special ones; expected at most"
    ):
        scorer.score_texts("u7", [words + " the"])


def test_ids_beyond_the_model_are_an_error(tmp_path):
    save_bpe(tmp_path, bos_token="<s>", eos_token="</s>")
    config = transformers.GPT2Config(
        vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    save_model(tmp_path, transformers.GPT2LMHeadModel, config)
    with pytest.raises(ValueError, match=r"token id \d+ of a model with 40; expected the tokenizer"):
        load_huggingface(tmp_path).score_texts("u", ["the king"])


def test_without_transformers_the_error_says_what_to_install(gpt2, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"need the transformers package.*pip install"):
        load_huggingface(gpt2)


def test_bf16_is_near_and_finite(gpt2):
    exact, rough = load_huggingface(gpt2), load_huggingface(gpt2, precision="bf16")
    for one, other in zip(exact.score_texts("u", TEXTS), rough.score_texts("u", TEXTS)):
        assert math.isclose(one.log_prob, other.log_prob, rel_tol=0.1)  # 8 bits of mantissa, large random weights
    with pytest.raises(ValueError, match="precision '16'"):
        load_huggingface(gpt2, precision="16")
    with pytest.raises(ValueError, match="batch tokens 0"):
        load_huggingface(gpt2, batch_tokens=0)
