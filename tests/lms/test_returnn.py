"""LMs that RETURNN trained: scores are those of RETURNN's own forward, and a description can choose no code."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
import torch
import yaml

os.environ["RETURNN_FRONTEND_NATIVE_OPT"] = "0"  # as in the product: RETURNN compiles nothing
import returnn.frontend as rf
from returnn.frontend.decoder.transformer import FeedForwardGated, TransformerDecoder
from returnn.tensor import single_step_dim
from returnn.torch.frontend.bridge import rf_module_to_pt_module
from returnn.util.basic import BehaviorVersion

from conftest import random_text
from rescore.cli import main
from rescore.lms.open import open_scorer
from rescore.lms.options import ScoringOptions
from rescore.lms.returnn import ReturnnScorer, returnn_perplexity
from rescore.nbest import read_nbest
from returnn_bridge.transformer_lm import TransformerLm, read_description, write_description

SIZE = {"num_layers": 2, "model_dim": 16, "num_heads": 2}
NETWORKS = {
    "old defaults": (SIZE, 16),
    "usual": ({**SIZE, "ff_activation": rf.build_dict(rf.gelu), "dropout": 0.1}, 24),
    "factored embedding": ({**SIZE, "embed_dim": 8}, 21),
    "like Llama": (
        {
            **SIZE,
            "pos_enc": None,
            "norm": rf.build_dict(rf.RMSNorm),
            "ff": rf.build_dict(FeedForwardGated),
            "decoder_layer_opts": {"self_att": rf.build_dict(rf.RotaryPosCausalSelfAttention, with_bias=False)},
        },
        24,
    ),
}
TEXTS = ["the king said", "a", "", "he went to the great old house with her", "the king said"]


@pytest.fixture(autouse=True)
def _behavior_version():
    before = BehaviorVersion._get_state()
    yield
    BehaviorVersion._reset(before)


def trained(folder: Path, vocab, options, version) -> tuple[Path, object]:
    """A checkpoint as RETURNN's engine writes it, with random weights; and the network."""
    BehaviorVersion._reset((version, 0))
    rf.select_backend_torch()
    arguments = dict(options)
    if "embed_dim" in options:
        arguments["embed_dim"] = rf.Dim(options["embed_dim"], name="embedding")
    pieces = rf.Dim(vocab.num_pieces, name="pieces")
    network = rf.build_from_dict(rf.build_dict(TransformerDecoder, encoder_dim=None, **arguments), vocab_dim=pieces)
    module = rf_module_to_pt_module(network)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    state = {"epoch": 1, "step": 3, "effective_learning_rate": 1e-3, "returnn_version": "1.2025"}
    torch.save({"model": module.state_dict(), **state}, folder / "epoch.001.pt")
    return folder / "epoch.001.pt", network


def step_by_step(network, vocab, text: str) -> float:
    """log p of RETURNN's decoder with its key-value cache, one piece after another, as in a recognition."""
    ids, total = vocab.encode(text), 0.0
    state = network.default_initial_state(batch_dims=[])
    for previous, following in zip([vocab.bos_id, *ids], [*ids, vocab.eos_id]):
        source = rf.convert_to_tensor(previous, sparse_dim=network.vocab_dim, dtype="int32")
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits, state = network(source, spatial_dim=single_step_dim, encoder=None, state=state)
            log_probs = rf.log_softmax(logits, axis=network.vocab_dim)
        total += float(log_probs.raw_tensor[following])
    return total


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_returnns_forward(tmp_path, vocab, vocab_folder, name):
    options, version = NETWORKS[name]
    checkpoint, network = trained(tmp_path, vocab, options, version)
    files = {"checkpoint": checkpoint, "vocab": vocab_folder / "spm.model"}
    expected = [step_by_step(network, vocab, text) for text in TEXTS]
    BehaviorVersion._reset((38, 0))  # that of another model in the same process
    write_description(tmp_path / "lm.yaml", behavior_version=version, model=options, **files)
    for budget in (8, 8192):
        scorer = ReturnnScorer(tmp_path / "lm.yaml", batch_tokens=budget)
        found = scorer.score_texts("a", TEXTS)
        assert [score.log_prob for score in found] == pytest.approx(expected, abs=1e-4)
    assert BehaviorVersion.get() == 38
    assert scorer.passes_run == 4, "the text that comes twice is run once"
    assert all(score.exact and score.num_tokens == len(vocab.encode(text)) + 1 for score, text in zip(found, TEXTS))


@pytest.fixture(scope="module")
def lm(tmp_path_factory, vocab, vocab_folder) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    checkpoint, _ = trained(folder, vocab, SIZE, 24)
    files = {"checkpoint": checkpoint, "vocab": vocab_folder / "spm.model"}
    write_description(folder / "lm.yaml", behavior_version=24, model=SIZE, **files)
    return folder / "lm.yaml"


def test_probabilities_of_all_next_pieces_sum_to_one(lm, vocab):
    """log p(w, EOS) telescopes: the sum over all v of p(v | w) is one, so no sentence of two pieces is likelier than its first."""
    model = TransformerLm.load(lm)
    short = model.log_probs([[]]).exp()
    longer = model.log_probs([[piece] for piece in range(vocab.num_pieces) if piece != vocab.eos_id]).exp()
    assert 0 < float(short) < 1 and float(short + longer.sum()) < 1


def test_the_verbs(lm, tmp_path, vocab_folder, capsys):
    (tmp_path / "a.py").write_text("{'u': [(-1.0, 'the king'), (-2.0, 'the old king')]}")
    (tmp_path / "t.txt").write_text(random_text(5))
    description = read_description(lm)
    calls = [
        f"returnnlm {description.checkpoint} num_layers=2 model_dim=16 num_heads=2 --vocab {vocab_folder}/spm.model "
        f"--behavior-version 24 --out {tmp_path}/again.yaml",
        f"score {tmp_path}/a.py --model ar={tmp_path}/again.yaml --out {tmp_path}/scores.jsonl",
        f"score {tmp_path}/a.py --model ar={lm} --precision bf16 --out {tmp_path}/half.jsonl",
        f"perplexity {lm} {tmp_path}/t.txt --out {tmp_path}/ppl.json",
    ]
    for call in calls:
        with pytest.raises(SystemExit) as stopped:
            main(call.split())
        assert stopped.value.code == 0, capsys.readouterr().err
    exact = [score.log_prob for score in ReturnnScorer(lm).score_texts("u", ["the king", "the old king"])]
    found = [
        [h.scores["ar"] for h in read_nbest(tmp_path / name)[0].hypotheses] for name in ("scores.jsonl", "half.jsonl")
    ]
    assert found[0] == pytest.approx(exact, abs=1e-4)
    assert found[1] == pytest.approx(exact, rel=0.02) and found[1] != found[0]
    values = json.loads((tmp_path / "ppl.json").read_text())
    lines = (tmp_path / "t.txt").read_text().splitlines()
    scores = ReturnnScorer(lm).score_texts("u", lines)
    total = sum(score.log_prob for score in scores) / sum(score.num_tokens for score in scores)
    assert values["perplexity_per_piece"] == pytest.approx(math.exp(-total))
    assert values["sentences"] == 5 and values["exact"] is True
    assert values["words"] == sum(len(line.split()) for line in lines)


def test_texts_of_pieces(lm, vocab):
    pieces = " ".join(vocab._processor.EncodeAsPieces("the king"))
    one, other = ReturnnScorer(lm), ReturnnScorer(lm, pieces=True)
    assert one.score_texts("u", ["the king"]) == other.score_texts("u", [pieces])
    assert one.describe() != other.describe()


def test_what_the_scores_depend_on_is_described(lm, tmp_path):
    tree = yaml.safe_load(lm.read_text())
    digests = {ReturnnScorer(lm).describe()["model"]}
    for change in ({"behavior_version": 21}, {"model": {**SIZE, "num_heads": 4}}):
        (tmp_path / "lm.yaml").write_text(yaml.safe_dump({**tree, **change}))
        digests.add(ReturnnScorer(tmp_path / "lm.yaml").describe()["model"])
    assert len(digests) == 3


@pytest.mark.parametrize(
    "change, error",
    [
        ({"format": "other"}, "format 'other'; expected 'returnn-lm'"),
        ({"more": 1}, "unknown \\['more'\\]"),
        ({"behavior_version": "24"}, "behavior_version '24'; expected that of RETURNN's configuration"),
        ({"checkpoint": "none.pt"}, "checkpoint .*none.pt: no such file"),
        ({"model": {**SIZE, "num_layers": 0}}, "model.num_layers 0; expected a whole number of 1 ... 1000"),
        ({"model": {**SIZE, "model_dim": 10**9}}, "model.model_dim 1000000000; expected a whole number of 1 ... 65536"),
        ({"model": {**SIZE, "num_layers": 3}}, "does not fit the options and the 44 pieces .*Missing key"),
        ({"model": {**SIZE, "model_dim": 32}}, "does not fit the options and the 44 pieces .*size mismatch"),
        ({"model": {**SIZE, "layers": 3}}, "RETURNN refuses it .*unexpected kwargs"),
        ({"model": {**SIZE, "encoder_dim": 3}}, "model.encoder_dim 3; expected no such option"),
        ({"model": {**SIZE, "class": "rf.LayerNorm"}}, "model.class 'rf.LayerNorm'; expected TransformerDecoder"),
        ({"model": {**SIZE, "norm": {"class": "os.system"}}}, "model.norm.class 'os.system'; expected one of"),
        ({"model": {**SIZE, "norm": {"class": "os.LayerNorm"}}}, "model.norm.class 'os.LayerNorm'; expected one of"),
        ({"model": {**SIZE, "norm": "rf.LayerNorm"}}, "model.norm 'rf.LayerNorm'; expected a number"),
        ({"model": 3}, "model 3; expected the arguments of TransformerDecoder"),
    ],
)
def test_wrong_descriptions_are_one_line(lm, tmp_path, change, error):
    (tmp_path / "lm.yaml").write_text(yaml.safe_dump({**yaml.safe_load(lm.read_text()), **change}))
    with pytest.raises((ValueError, FileNotFoundError), match=error) as caught:
        ReturnnScorer(tmp_path / "lm.yaml")
    assert "\n" not in str(caught.value)


def test_a_pickle_in_the_checkpoint_does_not_run(lm, tmp_path, vocab_folder):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/hacked",)

    files = {"checkpoint": tmp_path / "evil.pt", "vocab": vocab_folder / "spm.model"}
    for content in ({"model": Evil()}, {"model": {"a": 1}}, [1]):
        torch.save(content, tmp_path / "evil.pt")
        with pytest.raises(ValueError, match=r"evil.pt: (not a checkpoint of weights|no weights under 'model')"):
            write_description(tmp_path / "lm.yaml", behavior_version=24, model=SIZE, **files)
    assert not (tmp_path / "hacked").exists() and not (tmp_path / "lm.yaml").exists()


def test_a_checkpoint_alone_says_what_is_missing(lm):
    with pytest.raises(ValueError, match="expected the description of its LM, which `dlm returnnlm` writes"):
        open_scorer(str(read_description(lm).checkpoint), ScoringOptions())


def test_no_text_is_an_error(lm, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="empty.txt: no text"):
        returnn_perplexity(lm, [tmp_path / "empty.txt"])
