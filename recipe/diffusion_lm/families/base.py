"""What a family of language models is: one abstract class, with the defaults that most families share.

A family says how text is noised, what a network is trained on, and what the bound on log p is. A training loop is

    family = build_family({"name": "masked"}, special_ids(vocab))
    network = DiT(config, num_inputs=vocab.num_inputs, num_outputs=family.num_outputs, visibility=family.visibility)
    for sentences in batches:
        draw = draw_noise(sentences.layout.lengths, generator, stratified=family.stratified)
        loss = family.training_loss(network, sentences, draw)
        (loss.loss.sum() / loss.weight).backward()
    bound = family.nelbo(network, sentences, draw)        # [B] nats: an unbiased estimate of the bound of each sentence

A family of your own is a frozen dataclass that writes `training_loss`, `nelbo` and `sampler_kind`, and overrides those members below whose
default is not true of it. It becomes usable by `FAMILIES.add("mine", MyFamily)` (families/__init__.py); its options are its fields. Where the
noise replaces tokens independently of each other, families/process_family.py has all of this for two functions.

A family holds its options and no weights, and draws no random numbers: these come in as a `NoiseDraw`. Nobody outside of this package asks
which family it has before it; what others have to know is a member here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, NoReturn, Protocol

import torch
from torch import Tensor, nn

from diffusion_lm.device import to_device
from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families.log_probs import at_least_float32
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.process import ForwardProcess
from diffusion_lm.schedule import Schedule, build_schedule
from diffusion_lm.visibility import Visibility

Scoring = Literal["exact", "masks", "noise"]


class SpecialIds(NamedTuple):
    """The ids a family must know. Pieces that can be predicted are 0 .. num_pieces - 1."""

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
    """A network: flat ids [N] and their layout -> logits [M, outputs] of the selected flat positions (None: of all).

    What it is given may be on the CPU; what it answers is on its own device. Answers may be bfloat16: arithmetic on them starts with
    `at_least_float32`. sigma [B] is the noise level that it is conditioned on, or None.

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

    positions: Tensor
    """[M] flat positions."""
    weights: Tensor
    """[M, n] of the ids 0 .. n - 1; rows sum to 1."""


class TokenLoss(NamedTuple):
    """One training batch's loss: the mean over the batch is loss.sum() / weight."""

    loss: Tensor
    """[M] the terms that are trained on."""
    weight: Tensor | int
    """What their sum is divided by."""


class PolicyLoss(NamedTuple):
    """A training batch's loss where a policy decides: what the network learns from, and what the policy does."""

    network: TokenLoss
    penalty: Tensor
    """Nats per token, a constant that makes the loss a bound."""
    policy: Tensor
    """The policy's own loss; no gradient of it reaches the network."""


class BlockTerms(NamedTuple):
    """A training batch's loss of a block model before it is summed."""

    loss: Tensor
    """[M] weighted cross-entropy of the masked tokens."""
    block: Tensor
    """[M] the block of each of them."""
    scored: Tensor
    """[blocks] tokens that could be masked."""
    number: Tensor
    """[blocks] the number of each block in its sentence, from 0."""


class ClippableFamily(Protocol):
    """A family whose training can be restricted to an interval of times (training/clip_search.py)."""

    @property
    def exact(self) -> bool:
        """True: nothing is drawn, so there are no times."""

    @property
    def sampling_eps(self) -> float:
        """The smallest time of an unrestricted training."""

    @property
    def resample(self) -> bool:
        """Whether the masked share of a block is held within the interval too."""

    def with_interval(self, low: float, high: float, *, resample: bool) -> Family:
        """The family with that interval; `resample` counts for a real interval only."""

    def training_terms(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> BlockTerms:
        """The terms of `training_loss`, with the block of each."""


@dataclass(frozen=True)
class Family(ABC):
    """Everything that differs between families of language models."""

    special: SpecialIds

    # What must be written -------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        """What is minimised; may be weighted differently from the bound.

        Sentences and draw may be on the CPU and the network elsewhere: all that follows from them is worked out where they are, so that
        nothing has to wait for the device (tests/families/test_no_waiting.py). The loss is on the network's device, its weight on either.
        """

    @abstractmethod
    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[B] nats per sentence; its expectation over draws is >= -log p (equal when `exact`)."""

    @property
    @abstractmethod
    def sampler_kind(self) -> str:
        """Which samplers draw from the model, a key of `diffusion_lm.sampling.SAMPLERS`: "masks", "noise", "blocks" or "left-to-right"."""

    # Facts for others -----------------------------------------------------------------------------------------------------------------

    @property
    def exact(self) -> bool:
        """True: `nelbo` is -log p itself, in one pass and without noise."""
        return False

    @property
    def scoring(self) -> Scoring:
        """How a score is measured: in one pass ('exact'), by plans of masks ('masks'), or by `nelbo` with keyed draws ('noise')."""
        return "exact" if self.exact else "noise"

    @property
    def scores_end(self) -> bool:
        """Whether the score counts the end of the sentence: log p(text), not log p(text | its length)."""
        return False

    @property
    def runs_per_draw(self) -> int:
        """How often `nelbo` runs the network for one draw."""
        return 1

    @property
    def visibility(self) -> Visibility:
        """Which attention pattern the network is built with: 'bidirectional', 'causal' or `Blocks`."""
        return "bidirectional"

    @property
    def num_outputs(self) -> int:
        """Symbols the network has a logit for: all ids in every family, so that weights can be passed between them."""
        return self.special.num_inputs

    @property
    def antithetic_sampling(self) -> bool:
        """The option behind `stratified`."""
        return False

    @property
    def stratified(self) -> bool:
        """Whether training times are spread evenly over the batch."""
        return self.antithetic_sampling

    @property
    def time_conditioning(self) -> bool:
        """Whether the network is told the noise level."""
        return False

    @property
    def shift(self) -> bool:
        """Whether the prediction of a token is read off the position before it, as in an autoregressive network."""
        return False

    @property
    def sees_errors(self) -> bool:
        """Whether training showed wrong tokens. Only then has the network learned to doubt a visible token, and `one_pass` means something."""
        return False

    @property
    def trained_on_light_masks(self) -> bool:
        """Whether training never showed a sentence with most of it masked, so that estimators with such masks are to be avoided."""
        return False

    @property
    def block_size(self) -> int | None:
        """Positions of a block, in a family that goes through a sentence block by block."""
        return None

    @property
    def fill_last(self) -> bool:
        """Whether the last block of a sentence is filled up with EOS; of a family with blocks."""
        return False

    @property
    def noise(self) -> Schedule:
        """The schedule of a family that masks. ValueError for others."""
        self._has_no("schedule of masks")

    @property
    def process(self) -> ForwardProcess:
        """The forward process over all input ids, of a family with a ProcessFamily's noise. ValueError for others."""
        self._has_no("forward process")

    @property
    def time_range(self) -> tuple[float, float]:
        """The smallest and the largest time that the network knows."""
        return 0.0, 1.0

    @property
    def clippable(self) -> ClippableFamily | None:
        """The family itself where its training can be restricted to an interval of times, else None."""
        return None

    @property
    def has_policy(self) -> bool:
        """Whether a second, small network is trained which decides what is trained on. Nothing but training ever sees it."""
        return False

    def build_policy(self, embedding_width: int) -> nn.Module:
        """That network: (embeddings [N, embedding_width] of the clean ids, layout) -> scores [N]."""
        self._has_no("policy")

    def policy_loss(
        self, network: Denoiser, importance: Callable[[Sentences], Tensor], sentences: Sentences, draw: NoiseDraw
    ) -> PolicyLoss:
        """Minimised instead of `training_loss`, which stays what validation measures. importance: sentences -> scores [N]."""
        self._has_no("policy")

    # What follows from them -----------------------------------------------------------------------------------------------------------

    @property
    def symbols(self) -> list[int]:
        """The ids that a prediction has a probability above 0 for: they may be pieces of the vocabulary or follow it."""
        kept, never = self.answers
        return sorted(set(range(kept)) - set(never))

    @property
    def answers(self) -> tuple[int, list[int]]:
        """How many of the outputs come into question, and which of these are never the answer: mask and BOS, and EOS unless it is scored."""
        kept = self.num_outputs if self.scores_end else self.special.num_pieces
        return kept, [index for index in self.special.never(scores_end=self.scores_end) if index < kept]

    def num_scored(self, layout: Layout) -> Tensor:
        """[B] how many tokens of each framed sentence the score counts."""
        return layout.lengths - (1 if self.scores_end else 2)

    def scored(self, sentences: Sentences) -> Tensor:
        """[N] True where a token is noised and counts in the score."""
        return ~sentences.is_bos if self.scores_end else ~(sentences.is_bos | sentences.is_eos)

    def predict(
        self,
        network: Denoiser,
        z: Tensor,
        layout: Layout,
        *,
        level: Tensor | None = None,
        context: Tensor | None = None,
        select: Tensor | None = None,
    ) -> Tensor:
        """log p of every symbol as the clean token at flat positions of noised ids z [N]: [M, symbols] nats, -inf for what is no symbol.

        level [B]: `level_of_time` of each row, not looked at without `time_conditioning`.
        context [N]: the clean ids that later blocks see, of a family with blocks (default: z, for whoever asks for one block only).
        select [M]: flat positions other than BOS (default: all; the row of a BOS then means nothing).
        """
        return self.log_probs(self.logits(network, z, layout, level=level, context=context, select=select))

    def logits(
        self,
        network: Denoiser,
        z: Tensor,
        layout: Layout,
        *,
        level: Tensor | None = None,
        context: Tensor | None = None,
        select: Tensor | None = None,
    ) -> Tensor:
        """The network's own answers that `predict` normalises, [M, outputs], in its own precision."""
        if self.shift:  # a position that is asked for is no BOS, so it always has one before it in its row
            select = torch.arange(len(z), device=z.device).sub_(1).clamp_(min=0) if select is None else select - 1
        level = level if self.time_conditioning else None
        if self.block_size is None:
            return network(z, layout, level, select)
        return network(z, layout, level, select, context=z if context is None else context)

    def log_probs(self, logits: Tensor) -> Tensor:
        """Logits [M, outputs] normalised over the symbols: [M, symbols] nats."""
        return torch.log_softmax(self.possible(logits), dim=-1)

    def possible(self, logits: Tensor) -> Tensor:
        """[M, symbols] logits with -inf for what is never the answer, at least float32."""
        kept, never = self.answers
        own = at_least_float32(logits[:, :kept])
        bias = torch.zeros(kept, dtype=own.dtype)
        bias[never] = -torch.inf
        return own + on_device_of(bias, logits)

    def level_of_time(self, t: Tensor) -> Tensor:
        """What the network is told at time t, kept within the trained times. [B] -> [B]"""
        return t

    def level_of_count(self, num_masked: Tensor, num_scored: Tensor) -> Tensor:
        """What the network is told for k of L tokens masked: the level of t = k / (L + 1). [B] -> [B]"""
        return self.level_of_time(num_masked / (num_scored + 1.0))

    def one_pass(self, network: Denoiser, sentences: Sentences) -> Tensor:
        """[B] sum of log p of the tokens with the clean sentence as input at the smallest time: no bound.

        The best prediction leaves the token itself out, so a well-trained network says p(x_i | all others), a pseudo-log-likelihood, in
        one run, if the family `sees_errors`: a network of another one was never asked to doubt a token that it sees.
        """
        select = self.scored(sentences).nonzero()[:, 0]
        time = torch.full((len(sentences.layout.lengths),), self.time_range[0], device=sentences.ids.device)
        log_p = self.predict(
            network, sentences.ids, sentences.layout, level=self.level_of_time(time).float(), select=select
        )
        own = log_p.gather(1, on_device_of(sentences.ids[select], log_p)[:, None])[:, 0]
        return sum_over_rows(own, sentences.layout.row[select], len(time))

    def _has_no(self, what: str) -> NoReturn:
        raise ValueError(f"{type(self).__name__} has no {what}; expected a model of another family")


@dataclass(frozen=True)
class ScheduledNoise:
    """The two options of a family whose noise follows a schedule; to be inherited from before `Family`."""

    schedule: str = "loglinear"
    schedule_options: dict[str, float] = field(default_factory=dict)

    @property
    def noise(self) -> Schedule:
        """The schedule. ValueError for one that is unknown."""
        return build_schedule(self.schedule, **self.schedule_options)


def sum_over_rows(values: Tensor, row: Tensor, num_rows: int) -> Tensor:
    """[B] float64 sums of values [M] whose rows are row [M]."""
    row = on_device_of(row, values)
    return torch.zeros(num_rows, dtype=torch.float64, device=values.device).index_add(0, row, values.double())


def on_device_of(values: Tensor, answers: Tensor) -> Tensor:
    """Values that were worked out on the CPU, on the device of a network's answers; nobody waits for the copy."""
    return to_device(values, answers.device)
