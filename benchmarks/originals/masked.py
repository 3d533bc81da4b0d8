"""MDLM (arXiv 2406.07524) and BD3-LM (arXiv 2503.09573) beside our masked family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_lm.families import SpecialIds
from diffusion_lm.families.autoregressive import AutoregressiveFamily
from diffusion_lm.families.masked import MaskedFamily
from diffusion_lm.foreign.mdlm_weights import network_weights
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.visibility import Blocks, doubled_mask
from originals.imports import Fixed, Settings, Tokenizer, drawing, imported, randomise
from originals.inputs import (
    EPS,
    LAYOUT,
    LENGTH,
    MASK,
    MODEL,
    PIECES,
    ROWS,
    Line,
    Noise,
    costly,
    of_largest,
    our_network,
    relative,
    saying,
    some_logits,
    special,
    squeezed,
)


def compare_mdlm(path: Path) -> Iterator[Line]:
    with imported(path, "diffusion") as (diffusion,):

        def theirs(training: dict[str, Any] | None = None, **changed: Any) -> nn.Module:
            options: dict[str, Any] = {"parameterization": "subs", "backbone": "dit", "T": 0, "subs_masking": False}
            options |= {"time_conditioning": True, "noise": Settings(type="loglinear"), "model": MODEL}
            switches = {"antithetic_sampling": False, "importance_sampling": False, "change_of_variables": False}
            options["training"] = Settings(switches | {"ema": 0, "sampling_eps": EPS} | (training or {}))
            options |= {"sampling": Settings(predictor="ddpm"), "optim": Settings(lr=1e-3)}
            options["eval"] = Settings(gen_ppl_eval_model_name_or_path="")
            model = diffusion.Diffusion(Settings(options | changed), Tokenizer(PIECES, None)).eval()
            randomise(model.backbone, seed=0)
            return model

        def loss_of(model: nn.Module, noise: Noise, logits: Tensor | None) -> Tensor:
            if logits is not None:
                model.backbone = Fixed(logits)
            with drawing(noise.time, noise.keep):
                return model._forward_pass_diffusion(noise.ids)

        def both(
            options: dict[str, Any], ours: MaskedFamily, whole: bool, latest: float = 0.998, time: Any = None
        ) -> float:
            noise = Noise.of(torch.float32 if whole else torch.float64, latest=latest)
            model, logits = theirs(**options), None if whole else some_logits(PIECES + 1)
            network = our_network(model.backbone) if whole else saying(logits)
            draw = noise.draw(None if time is None else time(noise.time))
            return relative(
                costly(loss_of(model, noise, logits)), ours.training_loss(network, noise.sentences, draw).loss
            )

        def line(what: str, options: dict[str, Any], ours: MaskedFamily, **more: Any) -> Line:
            return Line("MDLM", what, both(options, ours, True, **more), both(options, ours, False, **more))

        model, noise = theirs(), Noise.of(torch.float32)
        level = -torch.log1p(-(1 - EPS) * noise.time)
        mine = our_network(model.backbone)
        mine.load_state_dict(network_weights(model.state_dict())[1])
        z = torch.where(noise.keep < 0.5, MASK, noise.ids)
        logits = of_largest(model.backbone(z, level), mine(z.flatten(), LAYOUT, level))
        yield Line("MDLM", "logits, weights through import_mdlm", logits)
        for name in ("loglinear", "linear", "geometric", "cosine", "cosinesqr"):
            ends = {"sigma_min": 1e-4, "sigma_max": 7.0} if name in ("linear", "geometric") else {}
            family = MaskedFamily(special(), schedule=name, schedule_options=ends, time_conditioning=True)
            yield line(f"SUBS, T = 0, {name}", {"noise": Settings(ends | {"type": name})}, family)
        family = MaskedFamily(special(), time_conditioning=False)
        yield line("SUBS, T = 0, loglinear, no time conditioning", {"time_conditioning": False}, family)
        family = MaskedFamily(special(), T=1000, time_conditioning=True)
        yield line("SUBS, T = 1000, t < 1", {"T": 1000}, family)
        yield line("SUBS, T = 1000, up to t = 1", {"T": 1000}, family, latest=0.9999)
        for name in ("importance_sampling", "change_of_variables"):
            family = MaskedFamily(special(), time_conditioning=True, **{name: True})
            time = same_masks if name == "importance_sampling" else squeezed
            yield line(f"SUBS, {name}, same masks", {"training": {name: True}}, family, time=time)
        yield from _sedd(theirs, loss_of)
        yield from compare_d3pm("MDLM", theirs(parameterization="d3pm", T=1000, time_conditioning=True))
        yield _autoregressive(theirs(backbone="ar", parameterization="ar"))


def same_masks(time: Tensor) -> Tensor:
    """Our uniform numbers for the mask probabilities that MDLM makes of `time` when it samples by importance.

    They squeeze the uniform numbers too, and start at the mask probability 1 - exp(-eps), we at (1 - eps) eps.
    """
    eps = torch.tensor(EPS, dtype=torch.float64)
    first, last = torch.log(-torch.expm1(-eps)), torch.log1p(-eps)
    log_rho = first + (last - first) * squeezed(time.double())
    start = torch.log(eps * (1 - eps))
    return ((log_rho - start) / (last - start)).to(time.dtype)


def _sedd(theirs: Callable[..., nn.Module], loss_of: Callable[..., Tensor]) -> Iterator[Line]:
    """Score entropy has no family of ours; at the score of a normalised denoiser it must be the SUBS loss."""
    noise, model = Noise.of(torch.float32), theirs(parameterization="sedd")
    yield Line("MDLM", "SEDD, mean of all tokens", figure=f"{loss_of(model, noise, None).mean().item():.6f} nats")
    t = EPS + (1 - EPS) * noise.time
    sigma = -torch.log1p(-(1 - EPS) * t)[:, None]
    masked = noise.keep < (1 - EPS) * t[:, None]
    log_p = torch.log_softmax(some_logits(PIECES).float(), -1)
    log_score = torch.cat([log_p - torch.log(torch.expm1(sigma))[..., None], torch.zeros(ROWS, LENGTH, 1)], -1)
    rate = (1 - EPS) / (1 - (1 - EPS) * t)[:, None]
    entropy = rate * model._score_entropy(log_score, sigma, torch.where(masked, MASK, noise.ids), noise.ids)
    subs = -log_p.gather(-1, noise.ids[..., None])[..., 0] / t[:, None]
    yield Line(
        "MDLM", "SEDD score entropy of a normalised denoiser against our SUBS", relative(entropy[masked], subs[masked])
    )


def compare_d3pm(original: str, model: Any) -> Iterator[Line]:
    """The D3PM bound has no family of ours; beside it the formula of docs/parity.md, written down again."""
    noise, T = Noise.of(torch.float64), model.T
    log_p = torch.log_softmax(some_logits(PIECES + 1), -1)
    t = ((EPS + (1 - EPS) * noise.time) * T).floor()[:, None] / T + 1 / T
    masked = noise.keep < t
    z = torch.where(masked, MASK, noise.ids)
    if original == "MDLM":
        found = model._d3pm_loss(log_p, z, noise.ids, t[:, 0])
    else:
        found = model.nll_per_token(log_p, z, noise.ids, 1 - t, None)
    s, own = t - 1 / T, log_p.gather(-1, noise.ids[..., None])[..., 0]
    at_mask = log_p[..., MASK].exp()
    now, before = torch.log1p((1 - t) / t * at_mask), torch.log1p((1 - s) / s * at_mask)
    wanted = T * ((now - own) / (T * t) + (1 - 1 / (T * t)) * (now - before))
    yield Line(original, "D3PM, T = 1000, against the formula", None, relative(found[masked], wanted[masked]))
    means = f"{found[masked].mean().item():.6f}, by the formula {wanted[masked].mean().item():.6f} nats"
    yield Line(original, "D3PM, mean of the masked tokens", figure=means)


def _autoregressive(model: nn.Module) -> Line:
    noise = Noise.of(torch.float32)
    # Their BOS can be predicted, ours can not: id 0 stands for it and is no other token, and no network says it.
    ids = noise.ids.clamp(min=1)
    ids[:, 0] = 0
    model.backbone.output_layer.linear.bias[0] = -1e4
    found = model._loss(ids.clone(), torch.ones_like(ids)).nlls
    family = AutoregressiveFamily(SpecialIds(PIECES, MASK, bos_id=0, eos_id=PIECES + 3, num_inputs=PIECES + 1))
    network = our_network(model.backbone, visibility="causal")
    mine = family.training_loss(network, Sentences(ids.flatten(), LAYOUT), noise.draw()).loss
    return Line("MDLM", "autoregressive baseline", relative(found, mine))


def compare_bd3lms(path: Path) -> Iterator[Line]:
    with imported(path, "diffusion", "models.dit") as (diffusion, network):

        def theirs(block_size: int) -> nn.Module:
            algo = {"name": "bd3lm", "backbone": "dit", "parameterization": "subs", "T": 0, "sampler": "semi_ar"}
            algo |= {"cross_attn": True, "ignore_bos": True, "mdlm_loss_scale": False, "var_min": False}
            training = Settings(antithetic_sampling=False, ema=0, resample=False)
            settings = Settings(algo=Settings(algo | {"time_conditioning": False}), training=training, mode="ppl_eval")
            settings |= {"model": Settings({k: v for k, v in MODEL.items() if k != "causal"}), "block_size": block_size}
            settings |= {"noise": Settings(type="loglinear"), "loader": Settings(eval_batch_size=ROWS)}
            settings["sampling"] = Settings(first_hitting=False, kv_cache=False)
            model = diffusion.Diffusion(settings, Tokenizer(PIECES, None)).eval()
            randomise(model.backbone, seed=0)
            return model

        def loss_of(model: nn.Module, time: Tensor, keep: Tensor, ids: Tensor) -> Tensor:
            with drawing(time, keep):
                return model._forward_pass_diffusion(ids, sampling_eps_min=EPS, sampling_eps_max=1.0)

        index = torch.arange(2 * LENGTH)
        for block_size in (1, 4, LENGTH):
            found = network.block_diff_mask(None, None, index[:, None], index[None], block_size, LENGTH)
            ours = doubled_mask(LENGTH, block_size)
            assert torch.equal(found, ours), f"attention mask of blocks of {block_size}"
        yield Line("BD3-LM", "attention mask of the doubled input, blocks of 1, 4 and 12", 0.0, 0.0)

        family = MaskedFamily(special(), schedule_options={"eps": 0.0})
        values = []
        for whole in True, False:
            noise = Noise.of(torch.float32 if whole else torch.float64)
            model, logits = theirs(LENGTH), some_logits(PIECES + 1)
            ours = our_network(model.backbone) if whole else saying(logits)
            model.backbone = model.backbone if whole else Fixed(logits)
            found = costly(loss_of(model, noise.time[:, None], noise.keep, noise.ids))
            values.append(relative(found, family.training_loss(ours, noise.sentences, noise.draw()).loss))
        yield Line("BD3-LM", "one block of the whole length, against our masked family", *values)

        model, noise = theirs(4), Noise.of(torch.float32)
        time = noise.keep[:, 1:4].contiguous()  # one time for each of three blocks
        found = loss_of(model, time, noise.keep, noise.ids)
        t = squeezed(time).repeat_interleave(4, dim=1)
        masked = noise.keep <= t
        ours = our_network(model.backbone, visibility=Blocks(4))
        z = torch.where(masked, MASK, noise.ids).flatten()
        logits = ours(z, Layout(torch.full((ROWS,), LENGTH)), context=noise.ids.flatten()).view(ROWS, LENGTH, -1)
        log_p = torch.log_softmax(logits[..., :PIECES], -1)
        mine = -log_p.gather(-1, noise.ids[..., None])[..., 0] / t
        yield Line("BD3-LM", "blocks of 4, against our network of blocks", relative(found[masked], mine[masked]))
        yield Line("BD3-LM", "blocks of 4, mean of all tokens", figure=f"{found.mean().item():.6f} nats")
        row = ", ".join(f"{value:.4f}" for value in found[-1].abs().tolist())
        yield Line("BD3-LM", "blocks of 4, tokens of the last sentence", figure=row)
