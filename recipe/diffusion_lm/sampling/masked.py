"""Draw sentences from a trained model: the reverse process of a masked model, left to right for an autoregressive one.

    drawn = sample(model, draw_lengths([9, 12, 17], 64, seed=1), predictor="ddpm_cache", steps=1000, seed=1)
    for tokens in drawn.tokens:
        print(model.vocab.decode(tokens))

A masked model draws p(pieces | their number): all pieces start masked between a visible BOS and EOS. On the way from t to s < t a masked
position is revealed with probability (rho(t) - rho(s)) / rho(t), whatever stands in it, and its token then follows the network
(Sahoo et al., arXiv 2406.07524). So one uniform number tells in which step a position is revealed, and a prediction is looked at only where
something is revealed: "ddpm_cache" and "analytic" make only those passes (at most one a token, time conditioning or not), "ddpm" one in
every step; with the same seed they draw the same. The analytic step of SEDD (Lou et al., arXiv 2310.16834), with the score that SUBS
implies, has the same law (tests/test_sampling.py); it differs at the end, where it draws what is still masked and the others take the best.

Uniform and hybrid models are drawn from in sampling_noise.py, block models in sampling_block.py. Each sentence has its own random numbers
from (seed, its place), so batches do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_lm.draws import step_seed
from diffusion_lm.families.block import BlockFamily
from diffusion_lm.families.log_probs import at_least_float32
from diffusion_lm.families.masked import MaskedFamily
from diffusion_lm.families.mixture import MixtureFamily
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.block import draw_blocks
from diffusion_lm.sampling.by_entropy import fill_by_entropy
from diffusion_lm.sampling.noise import draw_from_noise
from diffusion_lm.sampling.samples import Samples, categorical, generators

LAST_TIME = 1e-5  # where the reverse process ends; what is masked then is left to noise removal

BY_ENTROPY = {"certain-first": "certain", "uncertain-first": "uncertain"}


@dataclass(frozen=True)
class Predictor:
    """How the reverse process is walked."""

    every_step: bool  # run the network in every step, needed or not, as the method was published
    draws_last: bool  # noise removal draws from the prediction instead of taking its best symbol


PREDICTORS = {
    "ddpm": Predictor(every_step=True, draws_last=False),
    "ddpm_cache": Predictor(every_step=False, draws_last=False),
    "analytic": Predictor(every_step=False, draws_last=True),
}


def sample(
    model: LanguageModel,
    lengths: Sequence[int],
    *,
    predictor: str | None = None,
    steps: int = 1000,
    seed: int = 1,
    noise_removal: bool = True,
    nucleus_p: float = 1.0,
    batch_size: int = 64,
) -> Samples:
    """One sentence for each of `lengths`: that many pieces; for an autoregressive or a block model, at most that many.

    predictor: of a masked model one of PREDICTORS (None: ddpm_cache), or "certain-first" or "uncertain-first", which reveal one token a pass in
    the order of the network's entropy and have no steps; of a uniform or hybrid one "ancestral" (None) or "greedy-tail", whose
    last step takes the best symbol; of a block model "first-hitting" (None) or "ancestral". steps: of the reverse process (of one block).
    noise_removal: whether what is masked in the end is drawn too (masked models). nucleus_p: of a block model, draw from the most probable
    symbols with this much probability. ValueError for what does not fit, and for a length or
    steps below 1.
    """
    if any(length < 1 for length in lengths) or batch_size < 1:
        raise ValueError(
            f"sampling lengths {sorted(lengths)[:3]}, batch size {batch_size}: expected numbers of at least 1"
        )
    family = model.family
    if nucleus_p != 1 and not isinstance(family, BlockFamily):
        raise ValueError(f"nucleus_p {nucleus_p}: only a block model is drawn from with it; expected 1")
    process = None
    if isinstance(family, MaskedFamily) and predictor not in BY_ENTROPY:
        process = _Reverse(model, predictor or "ddpm_cache", steps, noise_removal)
    elif predictor is not None and not isinstance(family, MaskedFamily | MixtureFamily | BlockFamily):
        raise ValueError(f"predictor {predictor!r}: this model draws from left to right; expected none")
    tokens, passes, unfinished = [], 0, 0
    with torch.inference_mode():
        for start in range(0, len(lengths), batch_size):
            part = list(lengths[start : start + batch_size])
            if isinstance(family, BlockFamily):
                drawn = draw_blocks(model, part, predictor or "first-hitting", steps, seed, start, nucleus_p)
            elif isinstance(family, MixtureFamily):
                drawn = draw_from_noise(model, family, part, predictor or "ancestral", steps, seed, start)
            elif isinstance(family, MaskedFamily) and process is None:
                rows = [[family.special.mask_id] * length for length in part]
                drawn = fill_by_entropy(model, rows, first=BY_ENTROPY[str(predictor)], seed=seed, offset=start)
            elif process is None:
                drawn = _left_to_right(model, part, seed, start)
            else:
                drawn = process.run([[process.mask] * length for length in part], seed, start, all_masked=True)
            tokens += drawn.tokens
            passes += drawn.passes
            unfinished += drawn.unfinished
    return Samples(tokens, passes, unfinished)


def fill(
    model: LanguageModel,
    rows: Sequence[Sequence[int]],
    *,
    predictor: str = "ddpm_cache",
    steps: int = 1000,
    seed: int = 1,
    noise_removal: bool = True,
) -> Samples:
    """Draw the masked positions of partly known sentences (piece ids, with `model.vocab.mask_id` where to draw). Masked models only."""
    process = _Reverse(model, predictor, steps, noise_removal)
    with torch.inference_mode():
        return process.run(rows, seed, 0)


def sample_semi_autoregressive(
    model: LanguageModel,
    lengths: Sequence[int],
    *,
    stride: int,
    num_strides: int,
    predictor: str = "ddpm_cache",
    steps: int = 1000,
    seed: int = 1,
    noise_removal: bool = True,
) -> Samples:
    """Longer texts by a sliding window: after a window of `length` pieces, `num_strides` times `stride` new ones given the pieces before.

    A text has length + num_strides * stride pieces. Every window stands between BOS and EOS, as sentences did in training.
    """
    if not 1 <= stride <= min(lengths, default=stride) or num_strides < 0:
        raise ValueError(
            f"stride {stride}, num_strides {num_strides} for windows from {min(lengths, default=0)} pieces: "
            "expected 1 <= stride <= window and num_strides >= 0"
        )
    process = _Reverse(model, predictor, steps, noise_removal)
    with torch.inference_mode():
        windows = [[process.mask] * length for length in lengths]
        texts: list[list[int]] = [[] for _ in lengths]
        passes = 0
        for number in range(num_strides + 1):
            # Another seed for every window, else all of them would reveal in the same order.
            drawn = process.run(windows, step_seed(seed, "window", number, 0), 0)
            passes += drawn.passes
            for text, window in zip(texts, drawn.tokens):
                text += window if number == 0 else window[-stride:]
            windows = [window[stride:] + [process.mask] * stride for window in drawn.tokens]
    return Samples(texts, passes, sum(process.mask in text for text in texts))


class _Reverse:
    """The reverse process of one masked model, from all noise at t = 1 to `LAST_TIME` in equal steps of t."""

    def __init__(self, model: LanguageModel, predictor: str, steps: int, noise_removal: bool):
        if predictor not in PREDICTORS:
            known = ", ".join([*PREDICTORS, *BY_ENTROPY])
            raise ValueError(f"predictor {predictor!r} is unknown; expected one of {known}")
        if steps < 1:
            raise ValueError(f"sampling steps {steps}: expected at least 1")
        if not isinstance(model.family, MaskedFamily):
            raise ValueError("this model draws from left to right; expected a masked one to fill masked positions")
        self.model, self.family = model, model.family
        self.mask = model.family.special.mask_id
        self.rule, self.steps, self.noise_removal = PREDICTORS[predictor], steps, noise_removal
        self.times = torch.linspace(1.0, LAST_TIME, steps + 1, dtype=torch.float64)
        rho = self.family.noise.mask_probability(self.times)
        self.still_masked = rho / rho[0]  # probability that a position is not revealed by times[i]

    def run(self, rows: Sequence[Sequence[int]], seed: int, first: int, *, all_masked: bool = False) -> Samples:
        """Draw what is masked. Row i is number `first` + i of its stream of random numbers."""
        special, device = self.family.special, self.model.device
        sentences = Sentences.of(rows, bos_id=special.bos_id, eos_id=special.eos_id).to(device)
        layout = sentences.layout
        if all_masked:  # the EOS too, where the family scores it
            sentences = Sentences(sentences.ids.masked_fill(self.family.scored(sentences), self.mask), layout)
        ids = sentences.ids.clone()
        keys = _uniform(layout, 2, seed, first).to(device)
        after = torch.searchsorted(self.still_masked[1:].flip(0).to(device), keys[:, 0].contiguous(), right=True)
        reveal = (self.steps - after).masked_fill(ids != self.mask, -1)  # the step of each position; `steps` = not yet
        passes = 0
        due_steps = sorted(set(reveal.tolist()) - {-1, self.steps})
        for step in range(self.steps) if self.rule.every_step else due_steps:
            passes += self._step(ids, layout, reveal == step, keys[:, 1], float(self.times[step]), best=False)
        if self.noise_removal:
            last = reveal == self.steps
            passes += self._step(ids, layout, last, keys[:, 1], LAST_TIME, best=not self.rule.draws_last)
        tokens = [part.tolist()[1:] for part in ids.cpu().split(layout.lengths.tolist())]
        # Where the EOS is drawn too, it may come early and ends the sentence; else it is the last one, of the frame.
        ends = [row.index(special.eos_id) if self.family.score_eos and special.eos_id in row else -1 for row in tokens]
        ends = [end if end >= 0 or not self.family.score_eos else None for end in ends]
        tokens = [row[:end] for row, end in zip(tokens, ends)]
        return Samples(tokens, passes, sum(self.mask in row for row in tokens))

    def _step(self, ids: Tensor, layout: Layout, due: Tensor, keys: Tensor, time: float, *, best: bool) -> int:
        """Put tokens at the positions in `due` [N] into `ids`; returns how many rows went through the network."""
        wanted = (ids == self.mask) if self.rule.every_step else due
        rows = torch.zeros(len(layout.lengths), dtype=torch.bool, device=ids.device)
        rows[layout.row[wanted]] = True
        if not rows.any():
            return 0
        inside = rows[layout.row]
        part = Layout(layout.lengths[rows])
        t = torch.full((len(part.lengths),), time, device=ids.device)
        level = self.family.level_of_time(t) if self.family.time_conditioning else None
        select = wanted[inside].nonzero()[:, 0]
        log_probs = self.family.predict(self.model.network, ids[inside], part, level=level, select=select)[due[wanted]]
        ids[due] = log_probs.argmax(-1) if best else categorical(log_probs, keys[due])
        return int(rows.sum())


def _uniform(layout: Layout, count: int, seed: int, first: int) -> Tensor:
    """[N, count] uniform float64 numbers; those of a row depend on (seed, its number, its length) alone."""
    parts = []
    lengths = layout.lengths.tolist()
    for length, generator in zip(lengths, generators(len(lengths), seed, first)):
        parts.append(torch.rand(length, count, generator=generator, dtype=torch.float64))
    return torch.cat(parts)


def _left_to_right(model: LanguageModel, limits: Sequence[int], seed: int, first: int) -> Samples:
    """Each next piece from the network until it says EOS."""
    special, device = model.family.special, model.device
    own = generators(len(limits), seed, first)
    rows: list[list[int]] = [[] for _ in limits]
    active = list(range(len(limits)))
    unfinished = passes = 0
    while active:
        sentences = Sentences.of([rows[place] for place in active], bos_id=special.bos_id, eos_id=special.eos_id)
        sentences = sentences.to(device)
        # The position before the frame's EOS; a causal network does not see the EOS itself.
        select = sentences.is_eos.nonzero()[:, 0] - 1
        logits = at_least_float32(model.network(sentences.ids, sentences.layout, None, select))
        forbidden = torch.zeros(logits.shape[1], dtype=torch.bool, device=device)
        forbidden[special.never(scores_end=True)] = True
        log_probs = torch.log_softmax(logits.masked_fill(forbidden, -torch.inf), dim=-1)
        uniform = torch.cat([torch.rand(1, generator=own[place], dtype=torch.float64) for place in active])
        passes += len(active)
        going = []
        for place, token in zip(active, categorical(log_probs, uniform.to(device)).tolist()):
            if token == special.eos_id:
                continue
            if len(rows[place]) == limits[place]:
                unfinished += 1
                continue
            rows[place].append(token)
            going.append(place)
        active = going
    return Samples(rows, passes, unfinished)
