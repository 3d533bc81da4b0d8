"""Flex attention sees what the rules say and looks at no other tiles, gives SDPA's logits, gradients and bounds, and is refused without a GPU."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask

from conftest import random_model
from diffusion_lm.backbones.dit import DiT, DiTConfig
from diffusion_lm.backbones.flex import ATTENTIONS, LEAST_WIDTH, TILE, FlexAttention, check_attention
from diffusion_lm.draws import draw_noise
from diffusion_lm.families import FAMILIES
from diffusion_lm.layout import Layout
from diffusion_lm.sampling import build_sampler
from diffusion_lm.training.run import train
from diffusion_lm.visibility import Blocks, Visibility
from training_runs import config_of, weights

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # as it is, on a CPU

VISIBILITIES: list[Visibility] = ["bidirectional", "causal", Blocks(1), Blocks(3), Blocks(4), Blocks(150)]
# One tile and several, rows longer than a tile, a tile's border at a row's, a number of positions that is filled up.
LENGTHS = [[1], [3, 7, 2, 1], [2, 140, 1, 33, 90], [128, 128], [300]]
every_kind = pytest.mark.parametrize("visibility", ["bidirectional", "causal", Blocks(3)], ids=str)


def layout_of(lengths: list[int]) -> Layout:
    return Layout(torch.tensor(lengths))


def brute_force(lengths: list[int], visibility: Visibility) -> torch.Tensor:
    """Position by position, from the rules in words."""
    places = [(row, at, False) for row, length in enumerate(lengths) for at in range(length)]
    if isinstance(visibility, Blocks):
        places += [(row, at, True) for row, at, _ in places]

    def sees(query: tuple[int, int, bool], key: tuple[int, int, bool]) -> bool:
        if query[0] != key[0]:
            return False
        if not isinstance(visibility, Blocks):
            return visibility == "bidirectional" or key[1] <= query[1]
        own, other = query[1] // visibility.size, key[1] // visibility.size
        if query[2]:
            return key[2] and other <= own
        return other < own if key[2] else other == own

    return torch.tensor([[sees(query, key) for key in places] for query in places])


def computed(mask: BlockMask) -> torch.Tensor:
    """[N, N] the pairs that a kernel counts: all of a whole tile, those that the rule allows of another."""
    count = mask.shape[-1]
    allowed = create_mask(mask.mask_mod, 1, 1, count, count, device="cpu")[0, 0]
    pairs = torch.zeros_like(allowed)
    for numbers, columns, whole in (
        (mask.kv_num_blocks, mask.kv_indices, False),
        (mask.full_kv_num_blocks, mask.full_kv_indices, True),
    ):
        assert numbers is not None and columns is not None
        for row, number in enumerate(numbers[0, 0].tolist()):
            for column in columns[0, 0, row, :number].tolist():
                tile = slice(row * TILE, (row + 1) * TILE), slice(column * TILE, (column + 1) * TILE)
                assert not pairs[tile].any(), "no tile twice"
                pairs[tile] = allowed[tile] | whole
    return pairs


@pytest.mark.parametrize("visibility", VISIBILITIES, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: f"{len(lengths)} rows of {max(lengths)}")
def test_a_position_sees_what_the_rules_say_and_no_tile_is_looked_at_in_vain(lengths, visibility):
    mask = FlexAttention.of(layout_of(lengths), visibility).mask
    expected = brute_force(lengths, visibility)
    assert torch.equal(computed(mask), expected)
    count = len(expected)
    dense = create_block_mask(lambda b, h, query, key: expected[query, key], 1, 1, count, count, device="cpu")
    assert torch.equal(mask.to_dense(), dense.to_dense())
    assert mask.full_kv_num_blocks.sum() <= dense.full_kv_num_blocks.sum()


def test_whole_tiles_need_no_rule():
    assert FlexAttention.of(layout_of([3 * TILE]), "bidirectional").mask.full_kv_num_blocks.tolist() == [[[3, 3, 3]]]
    assert FlexAttention.of(layout_of([3 * TILE]), "causal").mask.full_kv_num_blocks.tolist() == [[[0, 1, 2]]]


def test_mask_of_the_doubled_input():
    vector = """11...... 11...... ..1111.. ..1111.. ....11.. ....11.. ....1111 ....1111""".split()
    pairs = computed(FlexAttention.of(layout_of([4]), Blocks(2)).mask)
    assert ["".join(".1"[int(seen)] for seen in row) for row in pairs] == vector


def random_network(visibility: Visibility, adaln: bool = True) -> DiT:
    backbone = DiTConfig(hidden_size=16, num_blocks=2, num_heads=2, cond_dim=8, dropout=0.0, adaln=adaln)
    network = DiT(backbone, num_inputs=9, num_outputs=8, visibility=visibility)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return network


def random_input(lengths: list[int], visibility: Visibility, select: bool = True) -> tuple:
    """ids, layout, sigma, selected positions, clean ids."""
    layout, generator = layout_of(lengths), torch.Generator().manual_seed(len(lengths))
    count = len(layout.row)
    ids, clean = torch.randint(0, 9, (2, count), generator=generator)
    wanted = torch.randperm(count, generator=generator)[: count // 2 + 1] if select else None
    return ids, layout, None, wanted, clean if isinstance(visibility, Blocks) else None


@every_kind
@pytest.mark.parametrize("adaln", [True, False])
def test_logits_are_those_of_sdpa(visibility, adaln):
    network = random_network(visibility, adaln)
    for lengths, select in itertools.product(LENGTHS[1:4], (True, False)):
        ids, layout, _, wanted, clean = random_input(lengths, visibility, select)
        level = None if network.noise is None or select else torch.linspace(0, 3, len(lengths))
        logits = []
        for attention in ATTENTIONS:
            network.configure(attention=attention)
            with torch.no_grad():
                logits.append(network(ids, layout, level, wanted, clean))
        assert logits[1].isfinite().all()
        assert torch.allclose(*logits, atol=1e-5, rtol=1e-5), (lengths, select)


@every_kind
def test_a_sentence_alone_is_as_with_its_mates(visibility):
    network = random_network(visibility)
    network.configure(attention="flex")
    lengths = [7, 140, 1, 30]
    ids, layout, _, _, clean = random_input(lengths, visibility)
    with torch.no_grad():
        together = network(ids, layout, None, None, clean).split(lengths)
        cleans = clean.split(lengths) if clean is not None else [None] * len(lengths)
        for row, own, own_clean in zip(together, ids.split(lengths), cleans):
            assert torch.allclose(row, network(own, layout_of([len(own)]), None, None, own_clean), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_the_same_bound(vocab, name):
    model = random_model(vocab, {"name": name})
    sentences = model.sentences(
        ["the king said", "a stone", "", "the little old woman went to the house and the river"] * 9
    )
    draw = draw_noise(sentences.layout.lengths, torch.Generator().manual_seed(1), stratified=False)
    bounds = []
    for attention in ATTENTIONS:
        model.network.configure(attention=attention)
        with torch.no_grad():
            bounds.append(model.family.nelbo(model.network, sentences, draw))
    assert torch.allclose(*bounds, rtol=1e-5, atol=1e-4)


def test_samples_are_the_same_with_finished_blocks_kept_or_read_again(vocab):
    model = random_model(vocab, {"name": "block", "block_size": 3})
    model.network.configure(attention="flex")
    cached, uncached = (build_sampler(model, cached=cached).draw_all([8, 5]) for cached in (True, False))
    assert cached.tokens == uncached.tokens


def gradients(network: DiT, inputs: tuple) -> list[torch.Tensor]:
    network.zero_grad()
    network(*inputs).square().sum().backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


@every_kind
def test_gradients_are_those_of_sdpa(visibility, monkeypatch):
    """Without a GPU: torch's plain form of flex attention has a backward pass, which only a check keeps from a CPU."""
    network, inputs = random_network(visibility), random_input([3, 9, 140, 1, 30], visibility)
    expected = gradients(network, inputs)
    network.configure(attention="flex")
    with pytest.raises(NotImplementedError, match="backward on CPU"):  # why training on a CPU is refused
        gradients(network, inputs)
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *tensors: None)
    for recompute in (False, True):
        network.configure(attention="flex", recompute=recompute)
        for own, other in zip(gradients(network, inputs), expected):
            assert torch.allclose(own, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("visibility", ["causal", Blocks(3)], ids=str)
def test_compiled_blocks_take_it_in(visibility):
    """As one graph each."""
    plain, compiled = random_network(visibility), random_network(visibility)
    for network in (plain, compiled):
        network.configure(attention="flex")
    torch._dynamo.reset()
    for block in compiled.blocks:
        block.compile(dynamic=True, fullgraph=True, backend="eager")
    for lengths in ([3, 140, 30], [20] * 10, [200, 100]):
        inputs = random_input(lengths, visibility)
        with torch.no_grad():
            assert torch.allclose(plain(*inputs), compiled(*inputs), atol=1e-5)


@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_training_without_a_gpu_is_refused_before_anything_is_written(
    vocab_folder, text_file, tmp_path, monkeypatch, accelerator
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = config_of(vocab_folder, text_file, "trainer.attention=flex", f"trainer.accelerator={accelerator}")
    message = f"trainer.attention 'flex' with trainer.accelerator '{accelerator}' and no GPU here: .*; expected a GPU, or trainer.attention=sdpa"
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_can_not_work_is_refused(vocab_folder, text_file, monkeypatch):
    with pytest.raises(ValueError, match="trainer.attention 'xformers'; expected 'sdpa' or 'flex'"):
        config_of(vocab_folder, text_file, "trainer.attention=xformers")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for capability, width, accelerator, message in [
        ((9, 0), 64, "cpu", "accelerator 'cpu': it has a backward pass on CUDA only; expected a GPU"),
        ((6, 1), 64, "auto", r"compute capability 6\.1: expected at least 7\.0"),
        ((9, 0), 8, "cuda", "heads of width 8 .*: expected at least 16"),
    ]:
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda capability=capability: capability)
        with pytest.raises(ValueError, match=message):
            check_attention("flex", head_width=width, accelerator=accelerator)
        check_attention("sdpa", head_width=width, accelerator=accelerator)
    check_attention("flex", head_width=24, accelerator="gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("preset", ["demo_ar:tiny:fp32", "demo_masked:tiny:fp32", "demo_masked:block4:tiny:fp32"])
def test_training_on_a_gpu_comes_to_the_same_weights(vocab_folder, text_file, tmp_path, preset):
    found = {}
    for name, options in {
        "sdpa": [],
        "flex": ["trainer.attention=flex", "trainer.activation_checkpointing=true"],
        "compiled": ["trainer.attention=flex", "trainer.compile=true"],
    }.items():
        settings = ["trainer.accelerator=cuda", "trainer.max_steps=3", "model.dropout=0", *options]
        config = config_of(vocab_folder, text_file, *settings, preset=preset)
        assert config.model.head_width >= LEAST_WIDTH
        found[name] = weights(train(config, tmp_path / name).model)
    for other in ("flex", "compiled"):
        for name, value in found["sdpa"].items():
            assert torch.allclose(value, found[other][name], atol=1e-4), (other, name)
