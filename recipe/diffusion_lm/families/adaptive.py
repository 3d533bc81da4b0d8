"""Adaptive masking, after the idea of ATAT: train more on hard tokens. Scores are those of the masked family.

    family = build_family({"name": "adaptive", "policy": "losses", "pi_min": 0.25}, special)
    made = family.policy_loss(network, importance, sentences, draw)      # importance: sentences -> scores [N] in (0, 1)
    family.training_loss(...), family.nelbo(...), family.predict(...)    # as in the masked family, without the policy

`policy` selects how the scores s_i of importance.py, the predicted ranks of difficulty, are used:

losses      Masks are uniform. Each masked token is predicted with probability pi_i = pi_min + (1 - pi_min) s_i
            only, and its loss is divided by pi_i (Horvitz and Thompson 1952). The expected loss stays the same, its
            second moment is at most 1/pi_min times as large, and the output layer runs on the chosen tokens only.
curriculum  Masks are uniform. Tokens with scores in the band of the current stage ([0, .3] easy, [.3, .7] medium,
            [.7, 1] hard) have weight `focus`, the others 1; weights are divided by their mean over the batch. This
            training loss is no bound.
tilted      The odds that token i is masked are multiplied by e^a_i, with a_i = beta (s_i - mean of the row):

                m_i = rho e^a / (1 + rho (e^a - 1)),    loss weight w(t) / (1 + rho (e^a - 1)) instead of w(t)

            The order in which tokens appear then depends on the text, which the model does not know. The bound
            therefore adds

                penalty(a) = a coth(a/2) - 2 nats a token          (about a^2/6: 0.16 for a = 1)

            so that E[sum of weighted cross-entropies] + sum_i penalty(a_i) >= -log p(x), with the model's rate of 1/t
            per token. Without the penalty the probabilities can sum to more than 1. It does not depend on the network's
            weights.

In expectation "losses" equals the training loss of the masked family. For the same network, the bound of "tilted" is
looser by the penalty.
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

# Options of each policy; the options of the other policies must keep their defaults.
OPTIONS = {
    "losses": ("pi_min",),
    "curriculum": ("curriculum_steps", "easy_until", "medium_until", "focus"),
    "tilted": ("beta",),
}
# Interval of scores of each stage of the curriculum.
BANDS = {"easy": (0.0, 0.3), "medium": (0.3, 0.7), "hard": (0.7, 1.0)}


@dataclass(frozen=True)
class AdaptiveFamily(MaskedFamily):
    """Masked family with a policy that chooses what is trained on."""

    policy: str = "losses"
    """How scores are used: "losses", "curriculum" or "tilted" (see above)."""
    pi_min: float = 0.25
    """For "losses": smallest probability that the loss of a masked token is computed."""
    curriculum_steps: int = 0
    """For "curriculum": length in optimizer steps; the last stage continues afterwards."""
    easy_until: float = 0.3
    """For "curriculum": share of curriculum_steps after which stage "medium" begins."""
    medium_until: float = 0.7
    """For "curriculum": share of curriculum_steps after which stage "hard" begins."""
    focus: float = 2.0
    """For "curriculum": weight of tokens in the band of the current stage."""
    beta: float = 1.0
    """For "tilted": largest difference of the log-odds of being masked, nats."""
    policy_width: int = 256
    """Width of the network that predicts difficulty."""
    policy_layers: int = 2
    """Number of layers of that network."""

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
                f"family.easy_until {self.easy_until}, family.medium_until {self.medium_until}, "
                f"family.focus {self.focus}: expected 0 <= easy <= medium <= 1 and focus >= 1"
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
        """Build the network that predicts difficulty from embeddings [N, embedding_width] of the language model."""
        return ImportanceNetwork(embedding_width, width=self.policy_width, num_layers=self.policy_layers)

    def policy_loss(
        self, network: Denoiser, importance: Callable[[Sentences], Tensor], sentences: Sentences, draw: NoiseDraw
    ) -> PolicyLoss:
        """Losses of the network and the policy.

        The policy learns from the ranks of the token losses only: no gradient flows through its choices.
        """
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
        represented = factor  # number of masked tokens that each prediction represents
        if self.policy == "tilted":
            factor = tilted_weight(rho[row[select]], tilt[select])
        if self.policy == "curriculum":
            factor = self.emphasis(known[select], draw.step)
        cross_entropy = -self.token_log_probs(network, sentences, masked, level, select)
        if self.weighting == "masked_mean":
            loss = TokenLoss(cross_entropy * factor, masked.sum().clamp(min=1))
        else:
            loss = TokenLoss(weight[row[select]] * cross_entropy * factor, scored)
        return PolicyLoss(loss, penalty, rank_error(score[select], cross_entropy, represented))

    def tilt(self, score: Tensor, sentences: Sentences) -> Tensor:
        """[N] beta times (score minus its mean over the scored tokens of the row), between -beta and beta."""
        layout, free = sentences.layout, self.scored(sentences)
        total = sum_over_rows(score[free], layout.row[free], len(layout.lengths))
        mean = total / self.num_scored(layout).clamp(min=1)
        return self.beta * (score - mean.to(score)[layout.row])

    def stage(self, step: int) -> str:
        """Name of the curriculum's stage at an optimizer step."""
        done = step / self.curriculum_steps
        return "easy" if done < self.easy_until else "medium" if done < self.medium_until else "hard"

    def emphasis(self, score: Tensor, step: int) -> Tensor:
        """[M] weights with mean 1; tokens in the band of the stage weigh `focus` times as much as the others."""
        low, high = BANDS[self.stage(step)]
        weight = torch.where((score >= low) & (score <= high), self.focus, 1.0)
        return weight / weight.mean()


def tilted_rate(rho: Tensor, tilt: Tensor) -> Tensor:
    """Probability of being masked if the odds of rho are multiplied by e^tilt; exactly rho where the tilt is 0."""
    return rho * torch.exp(tilt) / (1 + rho * torch.expm1(tilt))


def tilted_weight(rho: Tensor, tilt: Tensor) -> Tensor:
    """Reverse rate m'/m of a tilted token divided by the untilted rate rho'/rho."""
    return 1 / (1 + rho * torch.expm1(tilt))


def tilt_penalty(tilt: Tensor) -> Tensor:
    """a coth(a/2) - 2 nats, >= 0 and even in a.

    It is the integral of m (1/t - r + r log(r t)) dt with r = m'/m and the model's rate 1/t.
    """
    a = tilt.double()
    # For small a the closed form is a difference of nearly equal numbers, so the series is used there.
    series = a**2 / 6 - a**4 / 360
    near = a.abs() < 0.03
    return torch.where(near, series, a / torch.tanh(a.masked_fill(near, 1.0) / 2) - 2).to(tilt)
