"""Adaptive masking, after the idea of ATAT: spend training where the text is hard. Scoring is that of the masked family, whatever was learned.

    family = build_family({"name": "adaptive", "policy": "losses", "pi_min": 0.25}, special)
    made = family.policy_loss(network, importance, sentences, draw)      # training; importance: sentences -> scores [N] in (0, 1)
    family.training_loss(...), family.nelbo(...), family.predict(...)    # the masked family's own: no policy goes in, so none can matter

`policy` says what the scores s_i of importance.py, learned ranks of difficulty, are used for:

losses      Masks are uniform. Of the masked tokens those are predicted that a coin with pi_i = pi_min + (1 - pi_min) s_i chooses, and their
            loss is divided by pi_i (Horvitz and Thompson 1952): the same loss in expectation, its squares at most 1/pi_min times as large,
            and the output layer runs on the chosen tokens only.
curriculum  Masks are uniform. Losses of tokens in the stage's band of scores ([0, .3] easy, [.3, .7] medium, [.7, 1] hard) count `focus`
            times, all divided by the mean of these weights over the batch. A training loss, not a bound.
tilted      Token i is masked with odds e^a_i times those of the others, a_i = beta (s_i - mean of the row):

                m_i = rho e^a / (1 + rho (e^a - 1)),    weight of a masked token: w(t) / (1 + rho (e^a - 1)) instead of w(t)

            The order in which tokens appear then depends on the text itself, which the model does not know. For that the bound charges

                penalty(a) = a coth(a/2) - 2 nats a token          (about a^2/6: 0.16 for a = 1)

            per token: E[sum of weighted cross-entropies] + sum_i penalty(a_i) >= -log p(x), with the model's own rate of 1/t a token. Without
            it the number is no bound (the probabilities it implies can add up to more than 1). It does not depend on the network's weights.

In expectation "losses" is the masked family's training loss; "tilted" is a bound that is looser by the penalty for the same network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, PolicyLoss, TokenLoss, sum_over_rows
from diffusion_lm.families.importance import ImportanceNetwork, rank_error
from diffusion_lm.families.masked import MaskedFamily
from diffusion_lm.layout import Sentences

OPTIONS = {  # of each policy; those of the others must be left alone
    "losses": ("pi_min",),
    "curriculum": ("curriculum_steps", "easy_until", "medium_until", "focus"),
    "tilted": ("beta",),
}
BANDS = {"easy": (0.0, 0.3), "medium": (0.3, 0.7), "hard": (0.7, 1.0)}  # of scores


@dataclass(frozen=True)
class AdaptiveFamily(MaskedFamily):
    """The masked family with a policy for training."""

    policy: str = "losses"
    """What the scores are used for: "losses", "curriculum" or "tilted"."""
    pi_min: float = 0.25
    """Of "losses": the least probability that a masked token's loss is computed."""
    curriculum_steps: int = 0
    """Of "curriculum": its length in optimizer steps; the last stage goes on after it."""
    easy_until: float = 0.3
    """Of "curriculum": the share of curriculum_steps at which the stage "medium" begins."""
    medium_until: float = 0.7
    """Of "curriculum": the share at which the stage "hard" begins."""
    focus: float = 2.0
    """Of "curriculum": how often a loss in the band of the stage counts."""
    beta: float = 1.0
    """Of "tilted": the largest difference of the log-odds of being masked, nats."""
    policy_width: int = 256
    """Width of the network that predicts difficulty."""
    policy_layers: int = 2
    """Its number of layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy not in OPTIONS:
            raise ValueError(f"family.policy {self.policy!r}; expected one of {', '.join(OPTIONS)}")
        defaults = {item.name: item.default for item in fields(self)}
        for owner, names in OPTIONS.items():
            for name in names:
                if owner != self.policy and getattr(self, name) != defaults[name]:
                    raise ValueError(
                        f"family.{name} belongs to family.policy {owner!r}; expected it unset with {self.policy!r}"
                    )
        if self.parameterization != "subs":
            raise ValueError(f"family.parameterization {self.parameterization!r}: expected 'subs' for an adaptive one")
        if not 0 < self.pi_min <= 1:
            raise ValueError(f"family.pi_min {self.pi_min}: expected a probability above 0")
        if self.policy == "curriculum" and self.curriculum_steps < 1:
            raise ValueError(f"family.curriculum_steps {self.curriculum_steps}: expected a number of optimizer steps")
        if not 0 <= self.easy_until <= self.medium_until <= 1 or self.focus < 1:
            raise ValueError(
                f"family.easy_until {self.easy_until}, family.medium_until {self.medium_until}, family.focus {self.focus}: "
                "expected 0 <= easy <= medium <= 1 and focus >= 1"
            )
        if not 0 <= self.beta <= 10:
            raise ValueError(f"family.beta {self.beta}: expected 0 to 10 nats")
        if self.policy == "tilted" and (self.T or self.sampling_max < 1 or self.weighting != "nelbo"):
            raise ValueError(
                "family.policy 'tilted' is a bound in continuous time; "
                "expected family.T 0, family.sampling_max 1 and family.weighting 'nelbo'"
            )
        unit = 64 if self.policy_width >= 128 else 2
        if self.policy_width < 2 or self.policy_width % unit or self.policy_layers < 1:
            raise ValueError(
                f"family.policy_width {self.policy_width}, family.policy_layers {self.policy_layers}: "
                "expected an even width (from 128 on a multiple of 64) and at least one layer"
            )

    @property
    def has_policy(self) -> bool:
        return True

    def build_policy(self, embedding_width: int) -> nn.Module:
        """The network that predicts difficulty, from embeddings of the language model's width."""
        return ImportanceNetwork(embedding_width, width=self.policy_width, num_layers=self.policy_layers)

    def policy_loss(
        self, network: Denoiser, importance: Callable[[Sentences], Tensor], sentences: Sentences, draw: NoiseDraw
    ) -> PolicyLoss:
        """What is trained on. The scores decide, but no gradient goes through that: they learn from the losses' ranks alone."""
        rho, weight, level = self._training_time(draw.time)
        row, free = sentences.layout.row, self.scored(sentences)
        score = importance(sentences)
        known = score.detach()
        penalty = torch.zeros((), device=known.device)
        scored = self.num_scored(sentences.layout).sum().clamp(min=1)
        rate = rho[row]
        if self.policy == "tilted":
            tilt = self.tilt(known, sentences)
            rate = tilted_rate(rate, tilt)
            penalty = tilt_penalty(tilt[free]).sum() / scored
        masked = (draw.keep < rate) & free
        chosen, inclusion = masked, torch.ones_like(known)
        if self.policy == "losses":
            inclusion = self.pi_min + (1 - self.pi_min) * known
            chosen = masked & (draw.category < inclusion)
        select = chosen.nonzero()[:, 0]
        factor = 1 / inclusion[select]
        seen = factor  # what each prediction stands for
        if self.policy == "tilted":
            factor = tilted_weight(rho[row[select]], tilt[select])
        if self.policy == "curriculum":
            factor = self.emphasis(known[select], draw.step)
        cross_entropy = -self.token_log_probs(network, sentences, masked, level, select)
        if self.weighting == "masked_mean":
            loss = TokenLoss(cross_entropy * factor, masked.sum().clamp(min=1))
        else:
            loss = TokenLoss(weight[row[select]] * cross_entropy * factor, scored)
        return PolicyLoss(loss, penalty, rank_error(score[select], cross_entropy, seen))

    def tilt(self, score: Tensor, sentences: Sentences) -> Tensor:
        """a [N]: beta times the score less its mean over the row's scored tokens; between -beta and beta."""
        layout, free = sentences.layout, self.scored(sentences)
        total = sum_over_rows(score[free], layout.row[free], len(layout.lengths))
        mean = total / self.num_scored(layout).clamp(min=1)
        return self.beta * (score - mean.to(score)[layout.row])

    def stage(self, step: int) -> str:
        """Of the curriculum, at an optimizer step."""
        done = step / self.curriculum_steps
        return "easy" if done < self.easy_until else "medium" if done < self.medium_until else "hard"

    def emphasis(self, score: Tensor, step: int) -> Tensor:
        """[M] weights of mean 1: `focus` to 1 for tokens in the stage's band."""
        low, high = BANDS[self.stage(step)]
        weight = torch.where((score >= low) & (score <= high), self.focus, 1.0)
        return weight / weight.mean()


def tilted_rate(rho: Tensor, tilt: Tensor) -> Tensor:
    """Probability of being masked with odds e^tilt times those of rho; rho itself, to the bit, where the tilt is 0."""
    return rho * torch.exp(tilt) / (1 + rho * torch.expm1(tilt))


def tilted_weight(rho: Tensor, tilt: Tensor) -> Tensor:
    """The reverse rate m'/m of a tilted token, as a share of the untilted rho'/rho."""
    return 1 / (1 + rho * torch.expm1(tilt))


def tilt_penalty(tilt: Tensor) -> Tensor:
    """a coth(a/2) - 2 nats, >= 0, even in a: integral of m (1/t - r + r log(r t)) dt with r = m'/m and the model's own rate 1/t."""
    a = tilt.double()
    series = a**2 / 6 - a**4 / 360  # of differences of nearly equal numbers otherwise
    near = a.abs() < 0.03
    return torch.where(near, series, a / torch.tanh(a.masked_fill(near, 1.0) / 2) - 2).to(tilt)
