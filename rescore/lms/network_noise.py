"""Scores by drawn noise (rescore.estimators.drawn_noise): every draw of every hypothesis is a row, rows of many utterances make a batch.

    found, rows = score_drawn(model, build_estimator("draws", passes=16), tags, encoded, seed=1, batches=batches)

`batches` is the caller's rule for what goes through the network at once; scores do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families import MixtureFamily
from diffusion_lm.model import LanguageModel
from rescore.estimators.alignment import Tokens, leader_of, slots_of
from rescore.estimators.drawn_noise import Draw, Drawn, Draws, OnePass
from rescore.estimators.plans import Estimator, FloatArray, Keys
from rescore.scores import SequenceScore, standard_error

Batches = Callable[[Sequence[int]], list[list[int]]]  # lengths of rows -> places of the rows of each batch


def score_drawn(
    model: LanguageModel,
    estimator: Estimator,
    tags: Sequence[str],
    encoded: Sequence[Sequence[Tokens]],
    *,
    seed: int,
    batches: Batches,
) -> tuple[list[list[SequenceScore]], int]:
    """Scores of every utterance's hypotheses (piece ids), and the rows that went through the network.

    ValueError if the family has no such score.
    """
    family, name = model.family, model.family_options["name"]
    if not isinstance(estimator, Drawn):
        raise ValueError(
            f"estimator {estimator.name} is made of masks, a model of family {name} has other noise; expected {Draws.name} or {OnePass.name}"
        )
    if not isinstance(estimator, OnePass):
        assert isinstance(estimator, Draws), "the only other kind"
        return _draws(model, estimator, tags, encoded, seed, batches)
    if not isinstance(family, MixtureFamily) or not family.sees_errors:
        raise ValueError(
            f"estimator {OnePass.name} is for models that see errors (uniform, hybrid with p_uniform); family {name} does not"
        )
    unique = list(dict.fromkeys(tokens for utterance in encoded for tokens in utterance))
    values = np.zeros(len(unique))
    for batch in batches([len(tokens) for tokens in unique]):
        values[batch] = family.one_pass(model.network, model.frame([unique[place] for place in batch])).tolist()
    known = {
        tokens: SequenceScore(value, 0.0, 1 if tokens else 0, len(tokens), estimator.target)
        for tokens, value in zip(unique, values.tolist())
    }
    return [[known[tokens] for tokens in utterance] for utterance in encoded], len(unique)


def _draws(
    model: LanguageModel,
    estimator: Draws,
    tags: Sequence[str],
    encoded: Sequence[Sequence[Tokens]],
    seed: int,
    batches: Batches,
) -> tuple[list[list[SequenceScore]], int]:
    family = model.family
    texts: list[Tokens] = []
    rows: list[Draw] = []
    places: list[dict[Tokens, int]] = []  # of each utterance's distinct texts: the first of its rows
    for tag, utterance in zip(tags, encoded):
        leader = leader_of(distinct := list(dict.fromkeys(utterance)))
        drawn: dict[str, FloatArray] = {}
        places.append({})
        for tokens in distinct:
            places[-1][tokens] = len(rows)
            # The EOS, which some families noise, has the slot behind the leader's last token.
            keys = Keys(seed, tag, [*slots_of(leader, tokens), (len(leader), 0)], drawn)
            rows += estimator.draws(len(tokens) + 1, keys)
            texts += [tokens] * (len(rows) - len(texts))
    values, counts = np.zeros(len(rows)), np.zeros(len(rows), dtype=np.int64)
    for batch in batches([len(tokens) for tokens in texts]):
        sentences = model.frame([texts[place] for place in batch])
        draw = _stacked([rows[place] for place in batch], model.device)
        values[batch] = -family.nelbo(model.network, sentences, draw).double().cpu().numpy()
        counts[batch] = family.num_scored(sentences.layout).cpu().numpy()
    replicate = np.array([row.replicate for row in rows[: estimator.passes]])

    def score(start: int) -> SequenceScore:
        own = values[start : start + estimator.passes]
        parts = tuple(float(own[replicate == design].mean()) for design in range(int(replicate.max()) + 1))
        passes = family.runs_per_draw * estimator.passes if counts[start] else 0
        return SequenceScore(
            float(np.mean(parts)), standard_error(parts), passes, int(counts[start]), estimator.target, parts
        )

    found = [[score(own[tokens]) for tokens in utterance] for utterance, own in zip(encoded, places)]
    return found, family.runs_per_draw * len(rows)


def _stacked(rows: Sequence[Draw], device: torch.device) -> NoiseDraw:
    """The noise of a batch of framed sentences; BOS is never noised."""
    time = torch.tensor([row.time for row in rows], dtype=torch.float64)
    flat = [
        torch.from_numpy(np.concatenate([np.concatenate([[0.5], getattr(row, name)]) for row in rows]))
        for name in ("keep", "category")
    ]
    return NoiseDraw(time.to(device), flat[0].to(device), flat[1].to(device))
