"""Network and model folder: parameter counts, independence of batch mates, strict loading."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from conftest import TINY, random_model
from diffusion_lm.backbones.attention import Rotary, rotate
from diffusion_lm.backbones.dit import DiT, DiTConfig
from diffusion_lm.draws import NoiseDraw, draw_noise
from diffusion_lm.families import FAMILIES as REGISTRY
from diffusion_lm.layout import Sentences
from diffusion_lm.model import LanguageModel, fingerprint
from diffusion_lm.model_folder import made_by
from diffusion_lm.training.averaging import ExponentialMovingAverage
from returnn_bridge.vocab import Vocab

FAMILIES = [
    *({"name": name} for name in REGISTRY),  # a new family is tested as soon as it is there
    {"name": "masked", "time_conditioning": True},
    {"name": "masked", "score_eos": True, "shift": True},
    {"name": "hybrid", "shift": True, "time_conditioning": False},
]


@pytest.mark.parametrize(("outputs", "millions"), [(50_258, 169.63), (10_241, 108.1)])
def test_parameter_count_of_the_small_network(outputs, millions):
    """Published for GPT-2's vocabulary; 10,240 pieces and the mask for the reference run."""
    with torch.device("meta"):
        network = DiT(DiTConfig(), num_inputs=outputs, num_outputs=outputs, visibility="bidirectional")
    count = sum(parameter.numel() for parameter in network.parameters())
    d, c = 768, 128
    assert (
        count
        == 12 * (12 * d * d + 13 * d + 6 * d * c)
        + 2 * outputs * d
        + outputs
        + d
        + 2 * c * d
        + 2 * d
        + 256 * c
        + c
        + c * c
        + c
    )
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_special_ids_are_distinct_and_follow_the_pieces(vocab):
    ids = [vocab.mask_id, vocab.pad_id, vocab.bos_id, vocab.eos_id]
    assert len(set(ids)) == 4, "PAD and MASK must not coincide"
    assert vocab.mask_id == vocab.num_pieces
    assert max(vocab.encode("the king said xyz 9")) < vocab.num_pieces
    assert vocab.count_unknown(vocab.encode("the 9")) == 1
    assert vocab.decode(vocab.encode("the king said")) == "the king said"


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_nelbo_does_not_depend_on_batch_mates(vocab, family):
    """Alone, beside longer and shorter sentences, in any order: the same within rounding of float32."""
    model = random_model(vocab, family)
    texts = ["the king said", "a", "he went to the river and the old house was great", "the child"]
    framed = model.sentences(texts)
    lengths = framed.layout.lengths
    draw = draw_noise(lengths, torch.Generator().manual_seed(5), stratified=False)
    together = model.family.nelbo(model.network, framed, draw)
    starts = torch.cumsum(lengths, 0) - lengths
    for place, text in enumerate(texts):
        own = slice(starts[place], starts[place] + lengths[place])
        noise = NoiseDraw(draw.time[place : place + 1], draw.keep[own], draw.category[own])
        alone = model.family.nelbo(model.network, model.sentences([text]), noise)
        assert alone.item() == pytest.approx(together[place].item(), rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_padded_batch_is_the_flat_one(vocab, family):
    """What stands in the padding is never read: garbage there changes nothing, not even a bit."""
    model = random_model(vocab, family)
    rows = model.vocab.encode_batch(["the king said", "a tree", "he went to the river"])
    longest = max(map(len, rows))
    results = []
    for filler in (0, model.vocab.pad_id, 10**6):
        tokens = torch.tensor([row + [filler] * (longest - len(row)) for row in rows])
        framed = Sentences.of_padded(
            tokens, torch.tensor([len(row) for row in rows]), bos_id=model.vocab.bos_id, eos_id=model.vocab.eos_id
        )
        assert framed.ids.tolist() == model.frame(rows).ids.tolist()
        draw = draw_noise(framed.layout.lengths, torch.Generator().manual_seed(5), stratified=False)
        results.append(model.family.nelbo(model.network, framed, draw).tolist())
    assert results[0] == results[1] == results[2]


def test_open_gates_make_a_network_with_adaln_what_it_was_without(vocab):
    """Whatever noise level it is told."""
    plain = random_model(vocab, backbone=dataclasses.replace(TINY, adaln=False))
    conditioned = LanguageModel.build({"name": "masked", "time_conditioning": True}, TINY, vocab)
    conditioned.network.load_state_dict(plain.network.state_dict(), strict=False)
    conditioned.network.eval().open_gates()
    framed = plain.sentences(["the king said", "a"])
    sigma = torch.tensor([0.3, 2.0])
    expected = plain.network(framed.ids, framed.layout)
    assert torch.allclose(conditioned.network(framed.ids, framed.layout, sigma), expected, atol=1e-5)


@pytest.mark.parametrize("family", [{"name": "masked"}, {"name": "autoregressive"}], ids=str)
def test_fresh_network_answers_uniformly(vocab, family):
    """Zero output layer: log V per scored token (pieces; and EOS for the autoregressive family)."""
    model = LanguageModel.build(family, TINY, vocab)
    model.network.eval()
    framed = model.sentences(["the king said"])
    # Masked: every piece but BOS and EOS, which are pieces here; autoregressive: all but mask and BOS, with EOS.
    symbols = vocab.num_pieces - 2
    assert {vocab.bos_id, vocab.eos_id} < set(range(vocab.num_pieces))
    if family["name"] == "autoregressive":
        symbols = vocab.num_inputs - 2
    draw = draw_noise(framed.layout.lengths, torch.Generator().manual_seed(1), stratified=False)
    expected = float(model.family.num_scored(framed.layout)) * math.log(symbols)
    assert model.family.nelbo(model.network, framed, draw).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_save_and_load_give_the_same_scores_bit_for_bit(vocab, tmp_path, family):
    model = random_model(vocab, family)
    loaded = LanguageModel.load(model.save(tmp_path / "model", facts={"steps": 3}))
    assert loaded.facts == {"steps": 3}
    framed = model.sentences(["the king said", "a great old tree"])
    draw = draw_noise(framed.layout.lengths, torch.Generator().manual_seed(1), stratified=False)
    assert torch.equal(
        model.family.nelbo(model.network, framed, draw), loaded.family.nelbo(loaded.network, framed, draw)
    )
    before = fingerprint(tmp_path / "model")
    random_model(vocab, seed=1).save(tmp_path / "model", replaces=made_by("trained"))
    assert fingerprint(tmp_path / "model") != before, "saving replaces the folder, and the fingerprint sees it"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"], "nothing half-written stays"


def test_broken_model_folders_are_refused(vocab, tmp_path, vocab_folder):
    def broken(name):
        return random_model(vocab).save(tmp_path / name)

    truncated = broken("truncated")
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors: not readable"):
        LanguageModel.load(truncated)
    other_vocab = broken("vocab")
    config = json.loads((other_vocab / "config.json").read_text())
    (other_vocab / "config.json").write_text(json.dumps(config | {"num_pieces": 77}))
    with pytest.raises(ValueError, match="77"):
        LanguageModel.load(other_vocab)
    resized = broken("resized")
    (resized / "config.json").write_text(json.dumps(config | {"model": config["model"] | {"num_blocks": 3}}))
    with pytest.raises(ValueError, match="do not fit config.json"):
        LanguageModel.load(resized)
    no_vocab = broken("no_vocab")
    (no_vocab / "spm.model").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        LanguageModel.load(no_vocab)
    with pytest.raises(FileNotFoundError, match="config.json"):
        LanguageModel.load(vocab_folder)


def test_moving_average_warms_up_and_swaps_back():
    """d = min(decay, (1 + n) / (10 + n)): 2/11 at the first update, 0.918 at the hundredth."""
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = ExponentialMovingAverage(layer, 0.9999)
    torch.nn.init.ones_(layer.weight)
    average.update(layer)
    assert float(average.shadow[0]) == pytest.approx(1 - 2 / 11, rel=1e-6)
    expected = 1 - 2 / 11
    for n in range(2, 101):
        average.update(layer)
        expected += (1 - (1 + n) / (10 + n)) * (1 - expected)
    assert float(average.shadow[0]) == pytest.approx(expected, rel=1e-5)
    assert pytest.approx(0.918, abs=5e-4) == (1 + 100) / (10 + 100)
    average.swap(layer)
    assert float(layer.weight.detach()) == pytest.approx(expected, rel=1e-5)
    average.swap(layer)
    assert float(layer.weight.detach()) == 1.0


def test_vocabulary_without_bos_and_eos_gets_its_own_ids(text_file, tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.Train(
        input=str(text_file), model_prefix=str(tmp_path / "spm"), vocab_size=40, bos_id=-1, eos_id=-1, minloglevel=2
    )
    vocab = Vocab.load(tmp_path / "spm.model")
    assert [vocab.mask_id, vocab.bos_id, vocab.eos_id, vocab.num_inputs, vocab.pad_id] == [40, 41, 42, 43, 43]
    model = random_model(vocab, {"name": "autoregressive"})
    draw = NoiseDraw(torch.empty(0), torch.empty(0))
    assert model.family.nelbo(model.network, model.sentences(["the king"]), draw).item() > 0


@pytest.mark.parametrize("options", FAMILIES, ids=str)
def test_gradients_of_a_batch_are_the_sum_of_those_of_its_sentences_alone(vocab, options):
    """Alone there is no padding and nobody else: so neither has any part in the gradients of a batch."""
    model = random_model(vocab, options)
    model.network.requires_grad_(True)
    texts = ["the king said", "of", "a cat sat on the mat and the dog", "he hoped"]
    sentences = model.sentences(texts)
    draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(3), stratified=False)

    def gradients(sentences, draw):
        model.network.zero_grad()
        terms = model.family.training_loss(model.network, sentences, draw)
        (terms.loss.double().sum()).backward()
        return [0 if parameter.grad is None else parameter.grad.clone() for parameter in model.network.parameters()]

    whole = gradients(sentences, draw)
    alone: list = [0] * len(whole)
    ends = torch.cumsum(sentences.layout.lengths, 0).tolist()
    for row, (text, first, last) in enumerate(zip(texts, [0, *ends], ends)):
        own = NoiseDraw(draw.time[row : row + 1], draw.keep[first:last], draw.category[first:last])
        alone = [total + part for total, part in zip(alone, gradients(model.sentences([text]), own))]
    for total, part in zip(whole, alone):
        assert torch.allclose(torch.as_tensor(total), torch.as_tensor(part), rtol=1e-3, atol=1e-4)


def test_rotation_is_a_multiplication_by_e_to_the_i_angle_and_its_gradient_the_way_back():
    """Complex numbers in float64 as the independent formula."""
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(40, 3, 2, 8, generator=generator).requires_grad_()
    rotation = Rotary(8)(torch.arange(len(qkv)))
    rotated = rotate(qkv, rotation)

    angle = torch.complex(*(part.double() for part in rotation))
    first, second = qkv.double()[:, :2].chunk(2, dim=-1)
    turned = torch.complex(first, second) * angle
    expected = torch.cat([torch.cat([turned.real, turned.imag], dim=-1), qkv[:, 2:].double()], dim=1)
    assert torch.allclose(rotated.double(), expected, atol=1e-6)

    weights = torch.randn(qkv.shape, generator=generator)
    (own,) = torch.autograd.grad((rotated * weights).sum(), qkv)
    (other,) = torch.autograd.grad((expected * weights).sum(), qkv)
    assert torch.allclose(own, other, atol=1e-5)
