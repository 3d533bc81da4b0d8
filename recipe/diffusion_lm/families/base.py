"""What every family of language models offers: the protocol, and the small types that cross it.

    loss = family.training_loss(network, sentences, draw_noise(lengths, generator, stratified=True))
    (loss.loss.sum() / loss.weight).backward()
    nelbo = family.nelbo(network, sentences, draw)      # [B] nats, an unbiased estimate of the bound of each sentence

Randomness comes in as a `NoiseDraw`; a family holds its options and no weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from diffusion_lm.device import sent
from diffusion_lm.draws import NoiseDraw
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.visibility import Visibility

Scoring = Literal["exact", "masks", "noise"]


class SpecialIds(NamedTuple):
    """The ids a family must know. Predictable pieces are 0 .. num_pieces - 1."""

    num_pieces: int
    mask_id: int
    bos_id: int
    eos_id: int
    num_inputs: int

    def never(self, *, scores_end: bool) -> list[int]:
        """The ids that are no answer: mask, BOS, and EOS unless it is scored. GPT-2's BOS is its EOS, and then an answer too."""
        ends = {self.eos_id} if scores_end else set()
        return sorted({self.mask_id, self.bos_id, self.eos_id} - ends)


class Denoiser(Protocol):
    """A network: flat ids [N] and their layout -> logits [M, outputs] of the selected flat positions.

    What it is given may be on the CPU; what it answers is on its own device.

    They may be bfloat16: arithmetic on them starts with `at_least_float32`.

    A network of blocks is given the clean ids too (context [N]), any other is not. With `blend`, some positions hold no single symbol but
    a mixture of them.
    """

    def __call__(
        self,
        ids: Tensor,
        layout: Layout,
        sigma: Tensor | None,
        select: Tensor | None,
        context: Tensor | None = None,
        blend: Blend | None = None,
    ) -> Tensor: ...


class Blend(NamedTuple):
    """Inputs that are mixtures: the network reads the weighted mean of the symbols' embeddings."""

    positions: Tensor  # [M] flat positions
    weights: Tensor  # [M, n] of ids 0 .. n - 1, rows sum to 1


class TokenLoss(NamedTuple):
    """One training batch's loss: the mean over the batch is loss.sum() / weight."""

    loss: Tensor  # [M] the terms that are trained on
    weight: Tensor | int  # what their sum is divided by


class PolicyLoss(NamedTuple):
    """A training batch's loss where a policy decides: what the network learns from, and what the policy does."""

    network: TokenLoss
    penalty: Tensor  # nats per token, a constant that makes the loss a bound
    policy: Tensor  # the policy's own loss; no gradient of it reaches the network


class Family(Protocol):
    """Everything that differs between the families."""

    special: SpecialIds

    @property
    def exact(self) -> bool:
        """True: `nelbo` is -log p itself, one pass, no noise."""

    @property
    def scoring(self) -> Scoring:
        """How a score is measured: one pass ('exact'), plans of masks ('masks'), or `nelbo` with keyed draws ('noise')."""

    @property
    def scores_end(self) -> bool:
        """Whether the score counts the end of the sentence: log p(text), not log p(text | its length)."""

    @property
    def runs_per_draw(self) -> int:
        """How often `nelbo` runs the network for one draw."""

    @property
    def visibility(self) -> Visibility:
        """Which attention pattern the network is built with: 'bidirectional', 'causal' or `Blocks`."""

    @property
    def num_outputs(self) -> int:
        """Symbols the network has a logit for."""

    @property
    def stratified(self) -> bool:
        """Whether training times are spread evenly over the batch."""

    @property
    def time_conditioning(self) -> bool:
        """Whether the network is told the noise level."""

    @property
    def sees_errors(self) -> bool:
        """Whether training showed wrong tokens, so that `one_pass` means something."""

    @property
    def trained_on_light_masks(self) -> bool:
        """Whether training never showed a sentence with most of it masked."""

    def num_scored(self, layout: Layout) -> Tensor:
        """[B] how many tokens of each framed sentence the score counts."""

    def predict(
        self,
        network: Denoiser,
        z: Tensor,
        layout: Layout,
        *,
        level: Tensor | None,
        select: Tensor,
    ) -> Tensor:
        """log p of every symbol as the clean token at flat positions `select` of noised ids z [N]: [M, symbols] nats."""

    def level_of_time(self, t: Tensor) -> Tensor:
        """What the network is told at time t. [B] -> [B]"""

    def level_of_count(self, num_masked: Tensor, num_scored: Tensor) -> Tensor:
        """What the network is told for k of L tokens masked. [B] -> [B]"""

    def one_pass(self, network: Denoiser, sentences: Sentences) -> Tensor:
        """[B] sum of log p of the tokens with the clean sentence as input, of a family that `sees_errors`."""

    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        """What is minimised; may be weighted differently from the bound.

        Sentences and draw may be on the CPU and the network elsewhere: all that follows from them is worked out where they are, so that nothing
        has to wait for the device (tests/test_no_waiting.py). The loss is on the network's device, its weight on either.
        """

    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[B] nats per sentence; its expectation over draws is >= -log p (equal when `exact`)."""


@runtime_checkable
class PolicyFamily(Protocol):
    """A family that trains a second, small network which decides what is trained on. Nothing but training ever sees it."""

    def build_policy(self, embedding_width: int) -> nn.Module:
        """(embeddings [N, embedding_width] of the clean ids, layout) -> scores [N]."""

    def policy_loss(
        self, network: Denoiser, importance: Callable[[Sentences], Tensor], sentences: Sentences, draw: NoiseDraw
    ) -> PolicyLoss:
        """Instead of `training_loss`, which stays what validation measures."""


def sum_over_rows(values: Tensor, row: Tensor, num_rows: int) -> Tensor:
    """[B] float64 sums of values [M] whose rows are row [M]."""
    row = beside(row, values)
    return torch.zeros(num_rows, dtype=torch.float64, device=values.device).index_add(0, row, values.double())


def beside(values: Tensor, answers: Tensor) -> Tensor:
    """Values that were worked out on the CPU, on the device of a network's answers; nobody waits for the copy."""
    return sent(values, answers.device)
