"""Block diffusion: the mask of the doubled input, bounds by enumeration, and the two families at its ends."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from block_world import EOS, MASK, SPECIAL, Inconsistent, Language, family_of, frame, noise
from conftest import TINY, random_model
from diffusion_lm.backbones.dit import DiT
from diffusion_lm.draws import NoiseDraw, draw_noise, more_noise
from diffusion_lm.families import build_family
from diffusion_lm.layout import Layout
from diffusion_lm.model import LanguageModel
from diffusion_lm.visibility import Blocks, doubled_mask
from rescore.estimators import build_estimator
from rescore.lms.network import NetworkScorer


def enumerated_bound(family, network, text):
    """Sum over blocks and their masks of the weights 1 / (k C(L, k)); uses `token_log_probs` alone. Nats, >= -log p."""
    whole = text if not family.fill_last else text + (EOS,) * (-(len(text) + 2) % family.block_size)
    sentences = frame(whole)
    total = 0.0
    for start in range(0, len(sentences.ids), family.block_size):
        first = max(start, 1)  # behind BOS
        length = min(start + family.block_size, len(sentences.ids)) - first
        for mask in itertools.product((False, True), repeat=length):
            if any(mask):
                masked = torch.zeros(len(sentences.ids), dtype=torch.bool)
                masked[first : first + length] = torch.tensor(mask)
                log_probs = family.token_log_probs(network, sentences, masked)
                total -= float(log_probs.sum()) / (sum(mask) * math.comb(length, sum(mask)))
    return total


def brute_force(longest, size):
    table = torch.zeros(2 * longest, 2 * longest, dtype=torch.bool)
    for query, key in itertools.product(range(2 * longest), repeat=2):
        query_noisy, key_noisy = query < longest, key < longest
        query_block, key_block = query % longest // size, key % longest // size
        if query_noisy:
            seen = query_block == key_block if key_noisy else key_block < query_block
        else:
            seen = not key_noisy and key_block <= query_block
        table[query, key] = seen
    return table


def test_mask_of_the_doubled_input():
    vector = """11...... 11...... ..1111.. ..1111.. ....11.. ....11.. ....1111 ....1111""".split()
    assert ["".join(".1"[int(seen)] for seen in row) for row in doubled_mask(4, 2)] == vector
    for longest, size in itertools.product(range(1, 9), range(1, 10)):
        assert torch.equal(doubled_mask(longest, size), brute_force(longest, size))


def test_a_network_sees_what_the_mask_says(vocab):
    """By perturbation, in rows of several lengths: a changed input moves an output exactly where the mask (two layers deep) has a path."""
    size, lengths = 3, [7, 4, 1]
    network = random_model(vocab, {"name": "block", "block_size": size}).network
    layout = Layout(torch.tensor(lengths))
    generator = torch.Generator().manual_seed(0)
    ids, context = torch.randint(0, 20, (2, sum(lengths)), generator=generator)
    with torch.no_grad():
        usual = network(ids, layout, None, None, context=context)
        for at, clean in itertools.product(range(sum(lengths)), (False, True)):
            changed = [ids.clone(), context.clone()]
            changed[clean][at] += 1
            moved = (network(changed[0], layout, None, None, context=changed[1]) != usual).any(1)
            block = layout.position // size
            own_row = layout.row == layout.row[at]
            expected = own_row & (block > block[at] if clean else block == block[at])
            assert torch.equal(moved, expected), (at, clean)


@pytest.mark.parametrize("longest", [2, 3])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_bound_of_the_exact_denoiser_is_log_p(size, longest):
    """Of sentences of every length, the length included, for every block size."""
    language = Language(3, longest, size)
    family = family_of(size)
    assert sum(language.p.values()) == pytest.approx(1)
    for text, p in list(language.p.items())[:: 1 if longest == 2 else 5]:
        assert enumerated_bound(family, language, text) == pytest.approx(-math.log(p), rel=1e-9)


def test_unfilled_last_block_leaves_its_length_out():
    """Of a short block the network sees where the sentence ends: the probabilities of a language's sentences sum to 3 and not to 1.

    With blocks of 4, sentences of no piece and of one are short blocks of their own; two and three pieces share a first block.
    """
    family, language = family_of(4, fill_last=False), Language(3, 3, 4, fill=False)
    for lengths in ((0,), (1,), (2, 3)):
        texts = [text for text in language.p if len(text) in lengths]
        total = sum(math.exp(-enumerated_bound(family, language, text)) for text in texts)
        assert total == pytest.approx(1, rel=1e-9)


def test_nelbo_is_the_bound_by_enumeration_of_its_draws():
    """BOS and two tokens, then a block of three: all counts and orders of keys, one block at a time (the bound is a sum over blocks)."""
    family, network, sentences = family_of(3), Inconsistent(3), frame((2, 0, 1, 1))
    values = []
    for time, ranks in itertools.product([(i + 0.5) / 6 for i in range(6)], ((0.2, 0.7), (0.7, 0.2))):
        for first, second in itertools.product(
            itertools.permutations([0.3, 0.6]), itertools.permutations([0.1, 0.4, 0.8])
        ):
            category = torch.tensor([0.5, ranks[0], 0.5, ranks[1], 0.5, 0.5])
            draw = NoiseDraw(torch.tensor([time]), torch.tensor([0.0, *first, *second]), category)
            values.append(float(family.nelbo(network, sentences, draw)))
    assert np.mean(values) == pytest.approx(enumerated_bound(family, network, (2, 0, 1, 1)), rel=1e-9)


def test_filling_keys_are_as_good_as_drawn_ones():
    """Monte Carlo over a last block of one real token and two of filling: within 4 standard errors of the enumeration."""
    family, network = family_of(3), Inconsistent(3)
    count = 4000
    sentences = frame(*[(2, 0)] * count)
    draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(0), stratified=False)
    known = {}

    def remembered(ids, layout, sigma, select, context=None):
        """Asks for every noised text once."""
        logits = []
        for z, x in zip(ids.view(count, -1), context.view(count, -1)):
            key = tuple(z.tolist())
            if key not in known:
                places = (z == MASK).nonzero()[:, 0]
                known[key] = network(z, Layout(torch.tensor([len(z)])), None, places, context=x)
            logits.append(known[key])
        return torch.cat(logits)

    values = family.nelbo(remembered, sentences, draw)
    error = float(values.std()) / math.sqrt(count)
    assert float(values.mean()) == pytest.approx(enumerated_bound(family, network, (2, 0)), abs=4 * error)
    assert error < 0.05


def test_more_noise_is_uniform_and_uncorrelated():
    start = torch.rand(4000, generator=torch.Generator().manual_seed(1))
    streams = torch.stack([more_noise(start, torch.full((4000,), number)) for number in (-1, 0, 1, 2, 3)])
    assert streams.dtype == torch.float32 and streams.min() >= 0 and streams.max() < 1
    for stream in streams:
        counts = torch.histc(stream, 20, 0, 1).numpy()
        assert chisquare(counts).pvalue > 1e-3
    correlation = np.corrcoef(torch.cat([start[None], streams]).numpy()) - np.eye(6)
    assert abs(correlation).max() < 4.5 / math.sqrt(4000)


@pytest.mark.parametrize("options", [{}, {"schedule": "cosine"}, {"schedule_options": {"eps": 0.0}}], ids=str)
def test_expected_training_loss_is_the_bound(options):
    """Quadrature over a block's time, enumeration of masks. The lower end of the times (0.001) leaves out one part in a thousand."""
    family, network, text = family_of(2, **options), Inconsistent(2), (2, 0)
    sentences = frame(text)
    points, weights = np.polynomial.legendre.leggauss(40)
    nodes = [((point + 1) / 4 + half, weight / 4) for half in (0, 0.5) for point, weight in zip(points, weights)]
    total = 0.0
    for u, weight in nodes:
        low, rank = (
            family.sampling_eps,
            int(u * 2),
        )  # two blocks: the first has time u, the other one a time in the other half
        other = (1 - rank + (u * 2) % 1) / 2
        rho = [
            float(family.noise.mask_probability(torch.tensor(low + (1 - low) * v, dtype=torch.float64)))
            for v in (u, other)
        ]
        rho = [rho[0], rho[1], rho[1]]
        category = torch.tensor([0.5, 0.1 + 0.8 * rank, 0.9 - 0.8 * rank, 0.5], dtype=torch.float64)
        for mask in itertools.product((False, True), repeat=3):
            keep = torch.tensor([1.0, *[0.0 if hidden else 1.0 for hidden in mask]], dtype=torch.float64)
            probability = math.prod(p if hidden else 1 - p for p, hidden in zip(rho, mask))
            time = torch.tensor([(u * 2) % 1], dtype=torch.float64)
            loss = family.training_loss(network, sentences, NoiseDraw(time, keep, category))
            assert int(loss.weight) == 3
            total += weight * probability * float(loss.loss.sum())
    assert total == pytest.approx(enumerated_bound(family, network, text), rel=4e-3)


def test_times_of_blocks_are_uniform_and_lie_in_different_strata():
    family = family_of(4)
    lengths = [17, 9, 4, 2]
    layout = Layout(torch.tensor(lengths))
    blocks = family.blocks(layout)
    assert blocks.lengths.tolist() == [4, 4, 4, 4, 1, 4, 4, 1, 4, 2]
    times = []
    for seed in range(800):
        draw = draw_noise(layout.lengths, torch.Generator().manual_seed(seed), stratified=True)
        draw.category[layout.position == 0] = 0.5  # as a scorer leaves it, which does not noise BOS
        times.append(family.block_uniforms(layout, blocks, draw, stratified=True))
        assert (times[-1][:5] * 5).floor().sort().values.tolist() == [0, 1, 2, 3, 4]
    times = torch.stack(times)
    for block in times.T:
        assert chisquare(torch.histc(block, 10, 0, 1).numpy()).pvalue > 1e-3
    free = family.block_uniforms(layout, blocks, noise(lengths), stratified=False)
    assert len(set(free.tolist())) == len(free)


def test_block_of_full_length_is_the_masked_family(vocab):
    """The same weights, the same draw: a row that is one block, short or whole, in loss and bound. Only rounding differs."""
    for size, options in ((5, {}), (40, {"fill_last": False})):
        block = random_model(vocab, {"name": "block", "block_size": size, **options})
        masked = random_model(vocab, {"name": "masked", "score_eos": True})
        assert block.network.state_dict().keys() == masked.network.state_dict().keys()
        rows = block.frame([[9, 8, 7]] * 4 if size == 5 else [[9, 8, 7, 6, 5, 4], [11], [], list(range(5, 30))])
        draw = noise(rows.layout.lengths.tolist())
        with torch.no_grad():
            found, expected = (model.family.nelbo(model.network, rows, draw) for model in (block, masked))
            assert torch.allclose(found, expected, rtol=1e-5)
            found, expected = (model.family.training_loss(model.network, rows, draw) for model in (block, masked))
            assert torch.allclose(found.loss, expected.loss, rtol=1e-4) and found.weight == expected.weight


def test_block_size_one_is_the_chain_rule(vocab):
    """Each token given the clean text before it, one position at a time by hand; no draw is read."""
    model = random_model(vocab, {"name": "block", "block_size": 1})
    assert model.family.exact and model.family.scoring == "exact"
    assert not build_family({"name": "block", "block_size": 2}, SPECIAL).exact
    rows = [[5, 6, 7, 8], [9]]
    nothing = NoiseDraw(torch.empty(0), torch.empty(0))
    with torch.no_grad():
        found = model.family.nelbo(model.network, model.frame(rows), nothing)
        loss = model.family.training_loss(model.network, model.frame(rows), nothing)
        for row, value in zip(rows, found.tolist()):
            text, total = [vocab.bos_id, *row, vocab.eos_id], 0.0
            for place in range(1, len(text)):
                # What follows, and the token itself, may be anything.
                z = torch.tensor([*text[:place], vocab.mask_id, 3, 3])
                context = torch.tensor([*text[:place], 4, 4, 4])
                log_probs = model.family.predict(
                    model.network, z, Layout(torch.tensor([len(z)])), context=context, select=torch.tensor([place])
                )
                assert float(log_probs.exp().sum()) == pytest.approx(1, rel=1e-5)
                total -= float(log_probs[0, text[place]])
            assert value == pytest.approx(total, rel=1e-5)
    assert float(loss.loss.sum()) == pytest.approx(float(found.sum()), rel=1e-5)
    assert (loss.weight, len(loss.loss)) == (7, 7)


def test_clip_interval_and_resampling_do_not_change_the_bound(vocab):
    model = random_model(vocab, {"name": "block"})
    rows = model.frame([[5, 6, 7, 8, 9, 10], [9]])
    draw = noise(rows.layout.lengths.tolist())
    clipped = replace(model.family, sampling_min=0.4, sampling_max=0.9, resample=True)
    with torch.no_grad():
        assert torch.equal(clipped.nelbo(model.network, rows, draw), model.family.nelbo(model.network, rows, draw))
        assert len(clipped.training_loss(model.network, rows, draw).loss) > 0


@pytest.mark.parametrize("interval", [(0.5, 1.0), (0.3, 0.8), (0.0, 0.6)])
def test_resampled_masks_have_the_law_of_redrawing(interval):
    """Against the loop: masks drawn again until the share of a block fits."""
    low, high = interval
    family = family_of(4, sampling_min=low, sampling_max=high, resample=True)
    count = 6000
    sentences, rho = frame(*[(0, 1)] * count), torch.full((count,), 0.55)
    draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(2), stratified=False)
    blocks, scored = family.blocks(sentences.layout), torch.full((count,), 3)
    masks = family._resampled(torch.zeros(4 * count, dtype=torch.bool), rho, sentences, blocks, scored, draw)
    codes = (masks.view(count, 4)[:, 1:] * torch.tensor([4, 2, 1])).sum(1)
    allowed = [mask for mask in itertools.product((0, 1), repeat=3) if low <= sum(mask) / 3 <= high]
    weights = np.array([0.55 ** sum(mask) * 0.45 ** (3 - sum(mask)) for mask in allowed])
    counts = torch.bincount(codes, minlength=8).numpy()
    places = [4 * a + 2 * b + c for a, b, c in allowed]
    assert counts.sum() == counts[places].sum()
    assert chisquare(counts[places], weights / weights.sum() * count).pvalue > 1e-3


def test_a_block_that_no_count_fits_keeps_its_first_masks():
    family = family_of(4, sampling_min=0.4, sampling_max=0.6, resample=True, fill_last=False)
    sentences = frame((0, 1, 2))  # blocks of 3 scored tokens and of 1
    blocks, first = family.blocks(sentences.layout), torch.tensor([False, True, False, False, True])
    draw = NoiseDraw(torch.tensor([0.5]), torch.rand(5), torch.rand(5))
    masks = family._resampled(first, torch.tensor([0.5, 0.5]), sentences, blocks, torch.tensor([3, 1]), draw)
    assert torch.equal(masks, first)


def test_score_does_not_depend_on_batch_mates(vocab):
    model = random_model(vocab, {"name": "block"})
    rows = [[5, 6, 7, 8, 9, 10, 11], [9], [], [12, 5, 5, 30, 31]]
    framed = model.frame(rows)
    draw = noise(framed.layout.lengths.tolist(), seed=5)
    with torch.no_grad():
        together = model.family.nelbo(model.network, framed, draw)
        parts = [values.split(framed.layout.lengths.tolist()) for values in (draw.keep, draw.category)]
        for place, row in enumerate(rows):
            own = NoiseDraw(draw.time[place : place + 1], parts[0][place], parts[1][place])
            alone = model.family.nelbo(model.network, model.frame([row]), own)
            assert float(alone) == pytest.approx(float(together[place]), rel=1e-5)
    assert model.family.num_scored(framed.layout).tolist() == [8, 2, 1, 6], "pieces and EOS, no filling"


def test_extreme_logits_and_long_rows_are_finite(vocab):
    family = family_of(4)
    logits = torch.randn(200, SPECIAL.num_inputs, generator=torch.Generator().manual_seed(0)) * 1e4
    rows = frame((0, 1, 2), (), (1,) * 9)
    value = family.nelbo(lambda ids, layout, sigma, select, context: logits[: len(select)], rows, noise([5, 2, 11]))
    assert torch.isfinite(value).all() and value.dtype == torch.float64
    model = random_model(vocab, {"name": "block"})
    rows = model.frame([list(range(5, 40)) * 5, [7]])  # beyond the written-out attention, with padding
    loss = model.family.training_loss(model.network, rows, noise(rows.layout.lengths.tolist()))
    loss.loss.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.network.parameters() if p.grad is not None)


def test_save_and_load_give_the_same_scores_bit_for_bit(vocab, tmp_path):
    model = random_model(vocab, {"name": "block", "block_size": 8})
    loaded = LanguageModel.load(model.save(tmp_path / "model"))
    assert loaded.family == model.family and loaded.network.visibility == Blocks(8)
    framed = model.sentences(["the king said", "a great old tree"])
    draw = noise(framed.layout.lengths.tolist())
    with torch.no_grad():
        first, second = (own.family.nelbo(own.network, framed, draw) for own in (model, loaded))
    assert torch.equal(first, second)


def test_networks_say_whether_they_want_clean_ids(vocab):
    ids, layout = torch.tensor([1, 5, 2]), Layout(torch.tensor([3]))
    block, masked = (random_model(vocab, {"name": name}).network for name in ("block", "masked"))
    with pytest.raises(ValueError, match="no clean ids"):
        block(ids, layout)
    with pytest.raises(ValueError, match="only there"):
        masked(ids, layout, context=ids)
    assert DiT(TINY, num_inputs=9, num_outputs=9, visibility=Blocks(2)).noise is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 0}, "block_size 0"),
        ({"block_size": 4_000_000_000}, "block_size 4000000000: expected 1 to"),
        ({"block_size": 2.5}, "expected int"),
        ({"time_conditioning": True}, "one level per row"),
        ({"sampling_min": 0.8, "sampling_max": 0.4}, "min <= max"),
        ({"sampling_max": 0.0005}, "sampling_max"),
        ({"sampling_eps": 0.0}, "eps"),
        ({"resample": True}, "without a clip interval"),
        ({"block_size": 1, "sampling_min": 0.5}, "sampling_min with family.block_size 1"),
        ({"block_size": 1, "schedule_options": {"eps": 0.0}}, "schedule_options with"),
        ({"block_size": 1, "fill_last": False}, "fill_last with"),
        ({"schedule": "log"}, "loglinear"),
        ({"shift": True}, "unknown key .family.shift.; known here"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build_family({"name": "block", **options}, SPECIAL)


def test_a_scorer_measures_the_bound(vocab, tmp_path):
    """Keyed draws, which leave BOS's numbers constant, against independent ones: within 4 standard errors. Blocks of 1 need no estimator."""
    model = random_model(vocab, {"name": "block", "block_size": 3})
    texts = ["the king said", "a"]
    scorer = NetworkScorer(
        str(model.save(tmp_path / "model")), estimator=build_estimator("draws", passes=800, replicates=8)
    )
    found = scorer.score_texts("utterance", texts)
    for text, score in zip(texts, found):
        rows = model.sentences([text] * 800)
        draw = draw_noise(rows.layout.lengths, torch.Generator().manual_seed(3), stratified=False)
        with torch.no_grad():
            values = model.family.nelbo(model.network, rows, draw)
        error = math.hypot(score.standard_error, float(values.std()) / math.sqrt(800))
        assert score.log_prob == pytest.approx(-float(values.mean()), abs=4 * error)
        assert (score.target, score.num_tokens, score.num_passes) == ("elbo", len(vocab.encode(text)) + 1, 800)
    exact = random_model(vocab, {"name": "block", "block_size": 1}).save(tmp_path / "exact")
    assert NetworkScorer(str(exact)).score_texts("utterance", texts)[0].exact
