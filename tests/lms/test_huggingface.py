"""Hugging Face language models: equal to an independent loop over prefixes or masks, whatever shares the batch; nothing fetched, nothing run."""

from __future__ import annotations

import itertools
import json
import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import random_text, utterances_of
from huggingface_world import SIZE, make_bert, make_gpt2, save_bpe, save_model, save_wordpiece
from rescore.lms.generative_perplexity import open_judge
from rescore.lms.huggingface import HuggingFaceCausalScorer, HuggingFaceMaskedScorer, load_huggingface
from rescore.scores import UnknownCounts

transformers = pytest.importorskip("transformers")

TEXTS = [
    "the king said",
    "the old king said to the child",
    "",
    "a",
    "it went in the old house of stone and it was great",
]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return make_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_bert(tmp_path_factory.mktemp("bert"))


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
@given(
    lists=st.lists(
        st.lists(st.sampled_from([*TEXTS, "the king went", "Ω </s> [MASK]"]), min_size=1, max_size=4), max_size=3
    )
)
def test_pooled_lists_score_as_single_texts(loaded, lists):
    for scorer in loaded:
        found = scorer.score_group(utterances_of({f"u{index}": texts for index, texts in enumerate(lists)}))
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
    assert sum(rows for rows, _ in shapes) == scorer.passes_run
    assert all(rows * width <= 200 or rows == 1 for rows, width in shapes)
    assert sum(size > 150 for size in sizes) > 0.8 * len(sizes)


def test_texts_that_differ_in_the_masked_word_share_that_pass(bert):
    scorer = HuggingFaceMaskedScorer(bert)
    scores = scorer.score_texts("u", ["the king said", "the man said", "the king said"])
    assert [score.num_passes for score in scores] == [3, 3, 3]
    assert scorer.passes_run == 5


def test_unknown_tokens_are_counted_and_the_description_stays_as_it_was(bert, gpt2):
    scorer = HuggingFaceMaskedScorer(bert)
    before = scorer.describe()
    scorer.score_texts("u", ["the child said", "the child said", "stone"])
    assert scorer.unknown() == UnknownCounts(3, 7, "tokens")
    assert scorer.describe() == before == json.loads(json.dumps(before))
    bytes_know_all = HuggingFaceCausalScorer(gpt2)
    bytes_know_all.score_texts("u", ["Ω child"])
    assert bytes_know_all.unknown().count == 0


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


@pytest.mark.parametrize("role", ["bos_token", "eos_token"])
def test_start_and_end_beyond_the_embeddings_are_an_error_before_anything_runs(role, tmp_path):
    size = save_bpe(tmp_path, **{"eos_token": "</s>"})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.add_special_tokens({role: "<new>"})
    tokenizer.save_pretrained(tmp_path)
    config = transformers.GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    save_model(tmp_path, transformers.GPT2LMHeadModel, config)
    with pytest.raises(
        ValueError, match=rf"token '<new>' has id {size} of a model with {size}; expected the tokenizer"
    ):
        load_huggingface(tmp_path)


@pytest.mark.parametrize(("rows", "token"), [(4, r"mask token '\[MASK\]' has id 4"), (3, r"mask|special")])
def test_mask_and_added_tokens_beyond_the_embeddings_are_an_error_before_anything_runs(rows, token, tmp_path):
    save_wordpiece(tmp_path)
    save_model(tmp_path, transformers.BertForMaskedLM, transformers.BertConfig(vocab_size=rows, **SIZE))
    with pytest.raises(ValueError, match=rf"{token}.* of a model with {rows}; expected the tokenizer"):
        load_huggingface(tmp_path)


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


def test_a_judge_reports_by_word_and_by_its_own_token_and_cuts_what_it_can_not_read(gpt2):
    judge = open_judge(str(gpt2), device="cpu")
    assert judge.limit == f"{gpt2} reads at most 64 tokens; of longer samples the first words are measured"
    texts = ["the king", "the thing said the king"]
    scores = load_huggingface(gpt2).score_texts("u", texts)
    nats, tokens = -sum(score.log_prob for score in scores), sum(score.num_tokens for score in scores)
    expected = f"{math.exp(nats / 9):.1f} a word, {math.exp(nats / tokens):.1f} a token of the judge, ends"
    shown = judge(texts)
    assert expected in shown
    assert shown.endswith(f"(2 sentences, 7 words, {tokens} tokens, 0 unknown)")
    scorer, long = judge.scorer, " ".join(["the king"] * 60)
    short = scorer.first_words(long)
    assert long.startswith(short + " ")
    scorer.score_texts("u", [short])
    with pytest.raises(ValueError, match="expected at most 64"):
        scorer.score_texts("u", [" ".join(long.split()[: len(short.split()) + 1])])
    assert judge([long, *texts]).endswith(" 0 unknown, 1 cut)")
