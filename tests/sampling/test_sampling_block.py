"""The sampler of the block family draws the language whose denoiser it is given; caching and batches change nothing. The clip search."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from block_world import EOS, MASK, SPECIAL, Language, family_of, noise
from conftest import TINY, random_model
from diffusion_lm.commands.clip import clip
from diffusion_lm.layout import Layout
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling import build_sampler, sample
from diffusion_lm.sampling.block import nucleus
from diffusion_lm.sampling.samples import text_of
from diffusion_lm.training.clip_search import candidates, search_clip


def sample_blocks(model, limits, *, steps=None, seed=1, **options):
    """First-hitting, or ancestral in so many steps a block."""
    predictor, own = ("first-hitting", {}) if steps is None else ("ancestral", {"steps": steps})
    return build_sampler(model, predictor, **own, **options).draw_all(limits, seed=seed, batch_size=len(limits))


@pytest.mark.parametrize("steps", [None, 30])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_samples_follow_the_language(size, steps):
    """Sentences of every length with their probabilities. Ancestral: two tokens of a block in one of 30 steps are rare, not impossible."""
    language, count = Language(3, 2, size), 1500
    model = SimpleNamespace(family=family_of(size), network=language, device=torch.device("cpu"))
    drawn = sample_blocks(model, [2] * count, steps=steps, cached=False)
    texts = list(language.p)
    counts = np.zeros(len(texts))
    for row in drawn.tokens:
        counts[texts.index(tuple(row))] += 1
    expected = np.array([language.p[text] for text in texts]) * count
    common = expected > 4
    counts, expected = (np.append(values[common], values[~common].sum()) for values in (counts, expected))
    assert chisquare(counts, expected).pvalue > 0.01
    assert drawn.unfinished == 0


@pytest.mark.parametrize("options", [{}, {"block_size": 3, "fill_last": False}, {"block_size": 1}], ids=str)
def test_cached_is_uncached(vocab, options):
    """The doubled input of training and finished keys and values are the same function; so are a batch and its sentences alone."""
    model = random_model(vocab, {"name": "block", **options})
    limits = [3, 12, 1, 7, 20]
    for more in ({}, {"steps": 5}, {"nucleus_p": 0.5}):
        cached, uncached = (sample_blocks(model, limits, cached=cached, **more) for cached in (True, False))
        assert cached.tokens == uncached.tokens
        assert all(len(row) <= limit for row, limit in zip(cached.tokens, limits))
    usual = sample(model, limits, seed=3)
    assert (
        usual.tokens
        == sample(model, limits, seed=3, batch_size=1).tokens
        == sample_blocks(model, limits, seed=3).tokens
    )
    assert usual.tokens != sample(model, limits, seed=4).tokens
    ancestral = sample(model, limits, predictor="ancestral", steps=5, seed=3)
    assert ancestral.tokens == sample_blocks(model, limits, steps=5, seed=3).tokens


def test_past_of_finished_blocks_gives_the_logits_of_the_doubled_input(vocab):
    model = random_model(vocab, {"name": "block", "block_size": 3})
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, 20, (4, 6), generator=generator)
    block = torch.randint(0, 20, (4, 3), generator=generator)
    network, past = model.network, None
    with torch.no_grad():
        for part in text.split(3, dim=1):
            _, past = network.extend(part.flatten(), Layout(torch.full((4,), 3)), past)
        found, _ = network.extend(block.flatten(), Layout(torch.full((4,), 3)), past)
        ids = torch.cat([text, block], dim=1).flatten()
        layout = Layout(torch.full((4,), 9))
        expected = network(ids, layout, None, (layout.position >= 6).nonzero()[:, 0], context=ids)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_first_hitting_runs_once_for_every_mask():
    """Blocks of 4 with BOS in the first: 3 masks, then 4; a network that never ends a sentence."""

    def network(ids, layout, sigma, select, context=None):
        calls.append((len(layout.lengths), int((ids == MASK).sum())))
        logits = torch.zeros(len(select), SPECIAL.num_inputs)
        logits[:, EOS] = -1e9
        return logits

    calls = []
    model = SimpleNamespace(family=family_of(4), network=network, device=torch.device("cpu"))
    drawn = sample_blocks(model, [6], cached=False)
    assert calls == [(1, masks) for masks in (3, 2, 1, 4, 3, 2, 1)]
    assert (drawn.passes, drawn.unfinished, len(drawn.tokens[0])) == (7, 1, 6)
    calls.clear()
    assert sample_blocks(model, [6], cached=False, steps=1).passes == 2, "one step a block"


def test_nucleus_keeps_the_best_symbols():
    log_probs = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    kept = [torch.isfinite(nucleus(log_probs, p)).tolist() for p in (0.01, 0.81, 1.0)]
    assert kept[0] == [[True, False, False, False], [False, False, False, True]]
    assert kept[1] == [[True, True, False, False], [False, False, True, True]]
    assert all(all(row) for row in kept[2])


def test_clip_search_finds_the_interval_of_least_variance(vocab):
    """Every loss is the same there: a uniform network, whose loss varies with the number of masks and the weight alone."""
    assert candidates(1e-3, [0.5, 1.0], 0.25) == [(1e-3, 1.0), (1e-3, 0.5), (0.25, 0.75), (0.5, 1.0)]
    assert candidates(1e-3, [0.9], 0.05)[1:] == [(1e-3, 0.9), (0.05, 0.95), (0.1, 1.0)]
    model = LanguageModel.build({"name": "block"}, TINY, vocab)
    model.network.eval()
    rows = model.frame([[5, 6, 7, 8, 9, 10]] * 60)
    batches = [(rows, noise(rows.layout.lengths.tolist(), seed)) for seed in range(2)]
    found = search_clip(model.family, model.network, batches, [0.5, 0.7], 0.1)
    assert len(found) == 1 + 6 + 4
    assert [clip.variance for clip in found] == sorted(clip.variance for clip in found)
    assert (found[0].low, found[0].high) == (0.5, 1.0), "heavy masks vary least when all tokens are alike"
    full = next(clip for clip in found if (clip.low, clip.high) == (1e-3, 1.0))
    assert full.variance > 5 * found[0].variance
    for network_family, widths, message in (
        (replace(model.family, block_size=1), [0.5], "block_size 1"),
        (model.family, [1.5], "widths"),
    ):
        with pytest.raises(ValueError, match=message):
            search_clip(network_family, model.network, batches, widths, 0.1)
    with pytest.raises(ValueError, match="without a batch"):
        search_clip(model.family, model.network, [], [0.5], 0.1)


def test_bad_sampling_settings_are_named(vocab):
    model = random_model(vocab, {"name": "block"})
    for options, message in (
        ({"steps": 0}, "steps 0"),
        ({"nucleus_p": 0.0}, "nucleus_p 0.0"),
        ({"limits": [0]}, "lengths"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_blocks(model, **{"limits": [3], **options})
    with pytest.raises(ValueError, match="expected one of first-hitting, ancestral"):
        sample(model, [3], predictor="ddpm")


def test_nucleus_is_for_block_models(vocab):
    block = random_model(vocab, {"name": "block", "block_size": 2})
    cut = sample(block, [6] * 8, nucleus_p=0.01)
    assert cut.tokens == sample(block, [6] * 8, nucleus_p=0.01).tokens
    assert cut.tokens != sample(block, [6] * 8).tokens
    with pytest.raises(ValueError, match="has no option .nucleus_p.; expected one of steps, noise_removal"):
        sample(random_model(vocab), [3], nucleus_p=0.5)


def test_the_command_prints_the_best_interval_as_settings(vocab, text_file, tmp_path, capsys):
    folder = random_model(vocab, {"name": "block", "block_size": 3}).save(tmp_path / "block")
    clip(folder, [text_file], width=[0.5, 0.8], delta=0.25, sentences=30)
    shown = capsys.readouterr().out.strip().splitlines()
    assert shown.pop(0).startswith("device: ")
    assert len(shown) == 2 + len(candidates(1e-3, [0.5, 0.8], 0.25)) + 2
    low, high = (setting.partition("=")[2] for setting in shown[-1].split())
    assert shown[2].startswith(f"| {low} to {high} |")
    with pytest.raises(ValueError, match="expected a block model"):
        clip(random_model(vocab).save(tmp_path / "masked"), [text_file])


@pytest.mark.parametrize("name", ["block", "autoregressive"])
def test_samples_of_a_fixed_length_have_it_and_go_on_behind_the_ends_of_documents(vocab, name):
    """Until their first EOS they are the usual samples; then they go on."""
    model, limits = random_model(vocab, {"name": name}), [3, 12, 1, 7, 29]
    with torch.no_grad():
        model.network.head.bias[vocab.eos_id] += 3
    usual = sample(model, limits, seed=5)
    fixed = sample(model, limits, seed=5, options={"fixed_length": True})
    assert [len(row) for row in fixed.tokens] == limits and fixed.unfinished == 0
    for row, other in zip(fixed.tokens, usual.tokens):
        end = row.index(vocab.eos_id) if vocab.eos_id in row else len(row)
        assert row[:end] == other
    assert any(vocab.eos_id in row[:-1] for row in fixed.tokens)
    assert not {vocab.bos_id, vocab.mask_id} & {token for row in fixed.tokens for token in row}


def test_samples_of_several_documents_are_one_line(vocab):
    words = vocab.encode("the king"), vocab.encode("a stone")
    assert text_of([*words[0], vocab.eos_id, vocab.eos_id, *words[1]], vocab) == "the king a stone"
    assert text_of(words[0], vocab) == vocab.decode(words[0]) and text_of([], vocab) == ""
