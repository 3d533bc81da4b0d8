"""GIDD (arXiv 2503.04482) and Duo (arXiv 2506.10892) beside our hybrid and uniform families."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from diffusion_lm.families.hybrid import HybridFamily
from diffusion_lm.families.masked import MaskedFamily
from diffusion_lm.families.mixture import MixtureFamily
from diffusion_lm.families.uniform import UniformFamily
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
from originals.masked import compare_d3pm

ALL = torch.arange(ROWS * LENGTH)


def token_terms(
    family: MixtureFamily, network: Any, ids: Tensor, z: Tensor, t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(weight in the bound, divergence, weight in training) of every token, [ROWS, LENGTH] each, without framing."""
    level = family.level_of_time(t).float()
    log_x_hat = family.predict(network, z.flatten(), LAYOUT, level, ALL)
    weight, divergence = family.token_terms(family.mixture(t), log_x_hat, ids.flatten(), z.flatten(), LAYOUT.row)
    training = family.training_weight(weight, t.double()[LAYOUT.row]) if isinstance(family, HybridFamily) else weight
    return tuple(part.view(ROWS, LENGTH) for part in (weight, divergence, training))  # type: ignore[return-value]


def compare_gidd(path: Path) -> Iterator[Line]:
    package = ModuleType("gidd")
    package.__path__ = [str(path / "gidd")]  # its __init__ wants a hub of models
    with mock.patch.dict(sys.modules, {"gidd": package}):
        modules = imported(path, "gidd.models.dit", "gidd.loss", "gidd.diffusion_process", flash=False)
        with modules as (networks, losses, process):
            tokenizer = Tokenizer(PIECES + 1, MASK)
            theirs = networks.DIT(Settings(model=MODEL), len(tokenizer)).eval()
            randomise(theirs, seed=0)
            ours = our_network(theirs)
            noise = Noise.of(torch.float32)
            t = 1e-4 + (1 - 2e-4) * noise.time
            z = torch.where(noise.keep < 0.5, MASK, noise.ids)
            yield Line("GIDD", "logits", of_largest(theirs(z, t), ours(z.flatten(), LAYOUT, t)))

            def terms(p_uniform: float, weighting: str, whole: bool) -> tuple[Tensor, ...]:
                """Their (training loss, bound) and ours, then clean and noised ids and t; all positions noised."""
                noise = Noise.of(torch.float64)
                t = 1e-4 + (1 - 2e-4) * noise.time
                schedule = process.HybridDiffusion(tokenizer, p_uniform=p_uniform).double()
                torch.manual_seed(2)
                z = schedule.sample_zt(noise.ids, t)
                if whole:
                    schedule, t = schedule.float(), t.float()
                options = Settings(loss_weighting=weighting, min_loss_weight=0.0, max_loss_weight=2.0)
                loss = losses.GiddLoss(Settings(loss=options), tokenizer, schedule)
                # Their network has logits for 107 more symbols, up to a multiple of 128, which nothing excludes.
                logits = theirs(z, t)[..., : PIECES + 1] if whole else some_logits(PIECES + 1)
                found, bound, _ = loss.loss(logits.clone(), noise.ids, torch.ones_like(z), z, t)
                name = "nelbo" if weighting == "none" else weighting
                family = HybridFamily(special(), p_uniform=p_uniform, weighting=name)
                network = ours if whole else saying(logits)
                weight, divergence, training = token_terms(family, network, noise.ids, z, t)
                return found, bound, training * divergence, weight * divergence, noise.ids, z, t

            for p_uniform in (0.0, 0.1, 0.2):
                whole, formula = ([terms(p_uniform, "none", way)[i] for i in (1, 3)] for way in (True, False))
                yield Line("GIDD", f"bound, p_uniform {p_uniform}", relative(*whole), relative(*formula))
            for weighting in ("clip", "dynamic"):
                found, _, mine, _, x, z, t = terms(0.2, weighting, False)
                right = z == x
                for what, tokens in ("masked and wrong", ~right), ("right", right):
                    formula = relative(found[tokens], mine[tokens])
                    yield Line("GIDD", f"training loss, {weighting}, {what} tokens", None, formula)
            ratio, t = (found / mine)[right], t[:, None].expand_as(x)[right]
            least, most = ratio.argmin(), ratio.argmax()
            figure = f"{ratio[least]:.3f} at t = {t[least]:.3f} to {ratio[most]:.3f} at t = {t[most]:.3f}"
            yield Line("GIDD", "dynamic weight of right tokens, theirs over ours", figure=figure)
            noise, logits = Noise.of(torch.float64), some_logits(PIECES + 1)
            masked = noise.keep < noise.time[:, None]
            z = torch.where(masked, MASK, noise.ids)
            loss = losses.MDLMLoss(Settings(), tokenizer, None)
            found = loss.loss(logits.clone(), noise.ids, masked, z, noise.time)[0]
            log_p = MaskedFamily(special()).predict(saying(logits), z.flatten(), LAYOUT, None, ALL[masked.flatten()])
            mine = -log_p.gather(1, noise.ids[masked][:, None])[:, 0] / noise.time[:, None].expand_as(z)[masked]
            yield Line("GIDD", "its MDLM loss", None, relative(found[masked], mine))


def compare_duo(path: Path) -> Iterator[Line]:
    with imported(path, "algo") as (algo,):

        def theirs(kind: str, **changed: Any) -> nn.Module:
            options: dict[str, Any] = {"name": kind, "backbone": "dit", "parameterization": "mean", "T": 0}
            options |= {"time_conditioning": True, "causal_attention": False, "loss_type": "elbo", "ignore_bos": False}
            options["subs_masking"] = False
            sampler = changed.pop("sampler", "ancestral")
            settings = Settings(algo=Settings(options | changed), model=MODEL, data=Settings())
            settings["training"] = Settings(antithetic_sampling=False, ema=0, sampling_eps=EPS, class_dropout_p=0.0)
            settings["noise"] = Settings(type="log-linear", eps=EPS)
            settings["sampling"] = Settings(predictor=sampler, p_nucleus=1.0, noise_removal="none", use_float64=False)
            settings["eval"] = Settings(gen_ppl_eval_model_name_or_path="", perplexity_batch_size=1)
            settings["optim"] = Settings(lr=1e-3)
            model = getattr(algo, kind)(settings, Tokenizer(PIECES, None)).eval()
            randomise(model.backbone, seed=0)
            return model

        def bound(model: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor, Noise]:
            """Their loss of every token, and the noised ids that they drew."""
            noise, noised, seen = Noise.of(dtype), type(model).q_xt, []

            def remember(x: Tensor, alpha: Tensor) -> Tensor:
                seen.append(noised(model, x, alpha))
                return seen[-1]

            model.q_xt = remember
            torch.manual_seed(2)
            with drawing(noise.time, noise.keep):
                return model.nll(noise.ids, None, None), seen[0], noise

        model = theirs("DUO_BASE")
        network, logits, family = our_network(model.backbone), some_logits(PIECES), UniformFamily(special())
        pairs = []
        for ours, dtype in (network, torch.float32), (saying(logits), torch.float64):
            found, z, noise = bound(model, dtype)
            t = squeezed(noise.time)
            if ours is network:
                level = family.level_of_time(t)
                yield Line("Duo", "logits", of_largest(model.backbone(z, level), ours(z.flatten(), LAYOUT, level)))
            weight, divergence, _ = token_terms(family, ours, noise.ids, z, t)
            pairs.append((found, weight * divergence))
            model.backbone = Fixed(logits)
        for what, rows in ("t < 0.95", t < 0.95), ("t up to 0.998", t < 1):
            yield Line("Duo", f"uniform bound, {what}", *(relative(found[rows], mine[rows]) for found, mine in pairs))
        masked = {"parameterization": "subs", "subs_masking": False, "sampler": "ancestral_cache"}
        model, noise = theirs("MDLM", **masked), Noise.of(torch.float64)
        model.backbone = Fixed(some_logits(PIECES + 1))
        found, z, noise = bound(model, torch.float64)
        family, network = MaskedFamily(special(), time_conditioning=True), saying(some_logits(PIECES + 1))
        mine = family.training_loss(network, noise.sentences, noise.draw()).loss
        yield Line("Duo", "its SUBS, T = 0, loglinear", None, relative(costly(found), mine))
        # D3PMAbsorb cannot be built, because it compares a method of its noise schedule with a string. Its loss needs
        # three attributes.
        model = SimpleNamespace(T=1000, mask_index=MASK, _reconstruction_loss=lambda x: 0)
        model.nll_per_token = partial(algo.D3PMAbsorb.nll_per_token, model)
        yield from compare_d3pm("Duo", model)
