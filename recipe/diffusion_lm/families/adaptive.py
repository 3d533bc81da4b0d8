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
proposal    Masks are tilted as above in a random half of the rows and uniform in the others. The process
            of the model stays the uniform one, so the loss of a row is weighted by the ratio of the probabilities of
            its masks, over all its tokens, masked or not:

                W = prod_i (rho/m_i if masked, else (1 - rho)/(1 - m_i)),    weight 1 / (1/2 + 1/2 W^-1) < 2

            E[W^2] grows with the length, so the tilts of a row are scaled down until E[W^2] <= 2: long rows are hardly
            tilted. Training logs the effective sample size of each batch, (sum of weights)^2 / sum of squares.

In expectation "losses" and "proposal" equal the training loss of the masked family. For the same network, the bound of
"tilted" is looser by the penalty. With beta below 0, easy tokens are masked more often than hard ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.base import Denoiser, PolicyLoss, TokenLoss
from diffusion_lm.families.importance import ImportanceNetwork, rank_error
from diffusion_lm.families.masked import MaskedFamily
from diffusion_lm.families.objectives import WEIGHTINGS
from diffusion_lm.families.parts import build_part
from diffusion_lm.families.policies import POLICIES, Policy
from diffusion_lm.layout import Sentences


@dataclass(frozen=True)
class AdaptiveFamily(MaskedFamily):
    """Masked family with a policy that chooses what is trained on."""

    policy: str = "losses"
    """How scores are used: "losses", "curriculum", "tilted" or "proposal" (policies.py)."""
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
    """For "tilted" and "proposal": largest difference of the log-odds of being masked, nats."""
    policy_width: int = 256
    """Width of the network that predicts difficulty."""
    policy_layers: int = 2
    """Number of layers of that network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parameterization != "subs":
            raise ValueError(f"family.parameterization {self.parameterization!r}: expected 'subs' for an adaptive one")
        if self.policy_object.is_bound and (self.T or self.sampling_max < 1 or self.weighting != "nelbo"):
            raise ValueError(
                f"family.policy {self.policy!r} is a bound in continuous time; "
                "expected family.T 0, family.sampling_max 1 and family.weighting 'nelbo'"
            )
        if self.policy_object.is_weighted and self.weighting != "nelbo":
            raise ValueError(
                f"family.weighting {self.weighting!r} with family.policy {self.policy!r}: it divides by the number of "
                "masked tokens, which the weights of the rows do not correct; expected 'nelbo'"
            )
        unit = 64 if self.policy_width >= 128 else 2
        if self.policy_width < 2 or self.policy_width % unit or self.policy_layers < 1:
            raise ValueError(
                f"family.policy_width {self.policy_width}, family.policy_layers {self.policy_layers}: "
                "expected an even width (from 128 on a multiple of 64) and at least one layer"
            )

    @cached_property
    def policy_object(self) -> Policy:
        """The policy with its options."""
        return build_part(self, "policy", POLICIES)

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
        rho, weight, level = self.times.at(draw.time)
        layout, score = sentences.layout, importance(sentences)
        choice = self.policy_object.choose(score.detach(), rho[layout.row], self.scored(sentences), layout, draw)
        cross_entropy = -self.token_log_probs(network, sentences, choice.masked, level=level, select=choice.select)
        num_scored = self.num_scored(layout).sum()
        terms, divisor = WEIGHTINGS[self.weighting](
            cross_entropy, weight[layout.row[choice.select]], choice.masked.sum(), num_scored
        )
        return PolicyLoss(
            TokenLoss(terms * choice.factor, divisor),
            choice.penalty / num_scored.clamp(min=1),
            rank_error(score[choice.select], cross_entropy, choice.represented),
            None if choice.weight is None else effective_share(choice.weight),
        )


def effective_share(weight: Tensor) -> Tensor:
    """Effective sample size of importance weights [B], divided by B (Kong, 1992): 1 for equal weights."""
    return weight.sum() ** 2 / (len(weight) * (weight**2).sum())
