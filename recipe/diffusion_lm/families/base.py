"""What a family of language models is: one abstract class, with the defaults that most families share.

A family says how text is noised, what a network is trained on, and what the bound on log p is. A training loop is

    family = build_family({"name": "masked"}, special_ids(vocab))
    network = DiT(config, num_inputs=vocab.num_inputs, num_outputs=family.num_outputs, visibility=family.visibility)
    for sentences in batches:
        draw = draw_noise(sentences.layout.lengths, generator, stratified=family.stratified)
        loss = family.training_loss(network, sentences, draw)
        (loss.loss.sum() / loss.weight).backward()
    bound = family.nelbo(network, sentences, draw)        # [B] nats: an unbiased estimate of the bound of each sentence

To add a family, write a frozen dataclass with `training_loss`, `nelbo` and `sampler_kind`, and override the members
below whose default does not hold. Register it with `FAMILIES.add("mine", MyFamily)` (families/__init__.py); its fields
become its options. If the noise replaces tokens independently of each other, derive from families/process_family.py
instead, which needs two functions only.

A family holds options but no weights, and it draws no random numbers: these are passed in as a `NoiseDraw`. Code
outside this package never checks which family it has; everything it needs to know is a member of this class.
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
from diffusion_lm.families.log_probs import at_least_float32, target_log_probs
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.process import ForwardProcess
from diffusion_lm.schedule import Schedule, build_schedule
from diffusion_lm.visibility import Visibility

Scoring = Literal["exact", "masks", "noise"]


class SpecialIds(NamedTuple):
    """The token ids that a family needs. Pieces that can be predicted are 0 .. num_pieces - 1."""

    num_pieces: int
    """Number of pieces that can be predicted; their ids come first."""
    mask_id: int
    """Id of the mask."""
    bos_id: int
    """Id of the beginning of a sentence."""
    eos_id: int
    """Id of the end of a sentence."""
    num_inputs: int
    """Number of ids that the network can read."""

    def never(self, *, scores_end: bool) -> list[int]:
        """The ids that are never predicted: mask, BOS, and EOS unless it is scored.

        In GPT-2, BOS is EOS, so it can be predicted too.
        """
        ends = {self.eos_id} if scores_end else set()
        return sorted({self.mask_id, self.bos_id, self.eos_id} - ends)


class Denoiser(Protocol):
    """A network: flat ids [N] and their layout -> logits [M, outputs] at the selected flat positions (None: at all
    positions).

    The inputs may be on the CPU; the logits are on the network's device. They may be bfloat16, so convert them with
    `at_least_float32` before any arithmetic. sigma [B] is the noise level that the network is conditioned on, or None.

    Only a network for blocks also gets the clean ids (context [N]). With `blend`, some positions hold a mixture of
    symbols instead of a single one.
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
    """Input positions that hold mixtures: the network reads the weighted mean of the symbols' embeddings there."""

    positions: Tensor
    """[M] flat positions."""
    weights: Tensor
    """[M, n] weights of the ids 0 .. n - 1; each row sums to 1."""


class TokenLoss(NamedTuple):
    """Loss of one training batch: the mean over the batch is loss.sum() / weight."""

    loss: Tensor
    """[M] terms of the loss."""
    weight: Tensor | int
    """Divisor of their sum."""


class PolicyLoss(NamedTuple):
    """Losses of one training batch for a family with a policy: one for the network and one for the policy."""

    network: TokenLoss
    """Loss that trains the language model."""
    penalty: Tensor
    """Constant in nats per token that makes the loss a bound."""
    policy: Tensor
    """Loss that trains the policy; its gradient does not reach the network."""
    effective: Tensor | None = None
    """Effective sample size as a share of the rows, if they have importance weights."""


class BlockTerms(NamedTuple):
    """Loss terms of one training batch of a block model, before summation."""

    loss: Tensor
    """[M] weighted cross-entropy of the masked tokens."""
    block: Tensor
    """[M] index of the block that holds each of these tokens."""
    scored: Tensor
    """[blocks] number of tokens that could be masked."""
    number: Tensor
    """[blocks] index of each block within its sentence, from 0."""


class ClippableFamily(Protocol):
    """A family whose training can be restricted to an interval of times (training/clip_search.py)."""

    @property
    def exact(self) -> bool:
        """Whether the loss needs no random masks, so that there are no times to restrict."""

    @property
    def sampling_eps(self) -> float:
        """Smallest training time when the interval is not restricted."""

    @property
    def resample(self) -> bool:
        """Whether the masked share of a block must also lie within the interval."""

    def with_interval(self, low: float, high: float, *, resample: bool) -> Family:
        """A copy of the family with that interval; `resample` is ignored if the interval covers all times."""

    def training_terms(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> BlockTerms:
        """The terms of `training_loss`, with the block of each."""


@dataclass(frozen=True)
class Family(ABC):
    """Everything that differs between families of language models."""

    special: SpecialIds
    """Ids of the vocabulary."""

    # Members that every family must define ----------------------------------------------------------------------------

    @abstractmethod
    def training_loss(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> TokenLoss:
        """The loss to minimise; it may be weighted differently from the bound.

        Sentences and draw may be on the CPU while the network is on a GPU. Masks and weights are computed where
        sentences and draw are, to avoid synchronisation with the GPU (tests/families/test_no_waiting.py). The loss is
        on the network's device, its weight on either.
        """

    @abstractmethod
    def nelbo(self, network: Denoiser, sentences: Sentences, draw: NoiseDraw) -> Tensor:
        """[B] negative ELBO of each sentence, nats; its expectation over draws is >= -log p (equal when `exact`)."""

    def nll(self, network: Denoiser, sentences: Sentences) -> Tensor:
        """[B] exact -log p of each sentence, nats, where it can be computed without drawing; else ValueError."""
        self._has_no("exact likelihood")

    @property
    @abstractmethod
    def sampler_kind(self) -> str:
        """Key of `diffusion_lm.sampling.SAMPLERS`, for the samplers of this family: "masks", "noise", "blocks" or
        "left-to-right".
        """

    # Properties that other packages read ------------------------------------------------------------------------------

    @property
    def exact(self) -> bool:
        """Whether `nelbo` is -log p itself, from one pass without noise."""
        return False

    @property
    def scoring(self) -> Scoring:
        """How scores are computed: in one pass ('exact'), from planned masks ('masks'), or from `nelbo` with keyed
        draws ('noise').
        """
        return "exact" if self.exact else "noise"

    @property
    def scores_end(self) -> bool:
        """Whether the score includes the end of the sentence: log p(text) rather than log p(text | its length)."""
        return False

    @property
    def runs_per_draw(self) -> int:
        """Number of network runs that `nelbo` needs for one draw."""
        return 1

    @property
    def visibility(self) -> Visibility:
        """Attention pattern of the network: 'bidirectional', 'causal' or `Blocks`."""
        return "bidirectional"

    @property
    def num_outputs(self) -> int:
        """Number of logits: all input ids in every family, so that weights can be moved from one family to another."""
        return self.special.num_inputs

    @property
    def antithetic_sampling(self) -> bool:
        """The option that `stratified` returns."""
        return False

    @property
    def stratified(self) -> bool:
        """Whether training times are spread evenly over the batch."""
        return self.antithetic_sampling

    @property
    def time_conditioning(self) -> bool:
        """Whether the network is conditioned on the noise level."""
        return False

    @property
    def shift(self) -> bool:
        """Whether the prediction of a token is read off the position before it, as in an autoregressive network."""
        return False

    @property
    def sees_errors(self) -> bool:
        """Whether training inputs contain wrong tokens.

        Only then does the network learn to doubt visible tokens, as `one_pass` requires.
        """
        return False

    @property
    def trained_on_light_masks(self) -> bool:
        """Whether heavily masked sentences never occur in training, so that estimators should avoid such masks."""
        return False

    @property
    def block_size(self) -> int | None:
        """Number of positions in a block; None for a family without blocks."""
        return None

    @property
    def fill_last(self) -> bool:
        """Whether the last block of a sentence is padded with EOS; False for a family without blocks."""
        return False

    @property
    def noise(self) -> Schedule:
        """Noise schedule of a family with masks; ValueError for other families."""
        self._has_no("schedule of masks")

    @property
    def process(self) -> ForwardProcess:
        """Forward process over all input ids of a ProcessFamily; ValueError for other families."""
        self._has_no("forward process")

    @property
    def time_range(self) -> tuple[float, float]:
        """Smallest and largest time that the network is trained on."""
        return 0.0, 1.0

    @property
    def clippable(self) -> ClippableFamily | None:
        """The family itself if its training can be restricted to an interval of times, else None."""
        return None

    @property
    def has_policy(self) -> bool:
        """Whether a second, small network (the policy) chooses what is trained on. It is used in training only."""
        return False

    def build_policy(self, embedding_width: int) -> nn.Module:
        """Build the policy network: (embeddings [N, embedding_width] of the clean ids, layout) -> scores [N]."""
        self._has_no("policy")

    def policy_loss(
        self, network: Denoiser, importance: Callable[[Sentences], Tensor], sentences: Sentences, draw: NoiseDraw
    ) -> PolicyLoss:
        """Losses that replace `training_loss` in training; validation still uses that one. importance: sentences ->
        scores [N].
        """
        self._has_no("policy")

    # Derived from the members above -----------------------------------------------------------------------------------

    @property
    def symbols(self) -> list[int]:
        """Sorted ids that can be predicted; EOS may be one of them, and its id may follow those of the pieces."""
        kept, never = self.answers
        return sorted(set(range(kept)) - set(never))

    @property
    def answers(self) -> tuple[int, list[int]]:
        """(number of leading outputs to normalise over, ids among them that are never predicted: mask, BOS, and EOS
        unless it is scored).
        """
        kept = self.num_outputs if self.scores_end else self.special.num_pieces
        return kept, [index for index in self.special.never(scores_end=self.scores_end) if index < kept]

    def num_scored(self, layout: Layout) -> Tensor:
        """[B] number of scored tokens of each sentence with its BOS and EOS."""
        return layout.lengths - (1 if self.scores_end else 2)

    def scored(self, sentences: Sentences) -> Tensor:
        """[N] True where a token can be noised and is scored."""
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
        """log p of every symbol as the clean token, given noised ids z [N]: [M, symbols] nats, -inf for ids that are
        never predicted.

        level [B]: `level_of_time` of each row; ignored without `time_conditioning`.
        context [N]: clean ids that later blocks see, in a family with blocks (default: z, enough for a single block).
        select [M]: flat positions other than BOS (default: all; the results at BOS are then meaningless).
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
        """Logits of the network before `predict` normalises them, [M, outputs], in the network's precision."""
        if self.shift:  # selected positions are never BOS, so the position before is in the same row
            select = torch.arange(len(z), device=z.device).sub_(1).clamp_(min=0) if select is None else select - 1
        level = level if self.time_conditioning else None
        if self.block_size is None:
            return network(z, layout, level, select)
        return network(z, layout, level, select, context=z if context is None else context)

    def token_log_probs(
        self,
        network: Denoiser,
        sentences: Sentences,
        masked: Tensor,
        *,
        level: Tensor | None = None,
        select: Tensor | None = None,
    ) -> Tensor:
        """[M] log p of the clean tokens, nats, where the network reads the mask at the positions in masked [N].

        select [M]: flat positions (default: all masked ones). level [B]: as in `predict`.
        """
        z = sentences.ids.masked_fill(masked, self.special.mask_id)
        select = masked.nonzero()[:, 0] if select is None else select
        logits = self.logits(network, z, sentences.layout, level=level, context=sentences.ids, select=select)
        kept, never = self.answers
        return target_log_probs(logits, sentences.ids[select], kept=kept, never=never)

    def log_probs(self, logits: Tensor) -> Tensor:
        """Logits [M, outputs] normalised over the symbols: [M, symbols] nats."""
        return torch.log_softmax(self.possible(logits), dim=-1)

    def possible(self, logits: Tensor) -> Tensor:
        """[M, symbols] logits with -inf for ids that are never predicted, at least float32."""
        kept, never = self.answers
        considered = at_least_float32(logits[:, :kept])
        bias = torch.zeros(kept, dtype=considered.dtype)
        bias[never] = -torch.inf
        return considered + on_device_of(bias, logits)

    def level_of_time(self, t: Tensor) -> Tensor:
        """Noise level for the network at time t [B], clamped to the trained times. Returns [B]."""
        return t

    def level_of_count(self, num_masked: Tensor, num_scored: Tensor) -> Tensor:
        """Noise level for the network if k [B] of L [B] tokens are masked: that of t = k / (L + 1). Returns [B]."""
        return self.level_of_time(num_masked / (num_scored + 1.0))

    def one_pass(self, network: Denoiser, sentences: Sentences) -> Tensor:
        """[B] sum over tokens of log p(x_i), with the clean sentence as input at the smallest time; not a bound.

        If the family `sees_errors`, the best prediction ignores the visible token itself, so a well-trained network
        gives p(x_i | all others), a pseudo-log-likelihood, in one run. Networks of other families never
        learned to doubt a visible token.
        """
        select = self.scored(sentences).nonzero()[:, 0]
        time = torch.full((len(sentences.layout.lengths),), self.time_range[0], device=sentences.ids.device)
        log_p = self.predict(
            network, sentences.ids, sentences.layout, level=self.level_of_time(time).float(), select=select
        )
        of_tokens = log_p.gather(1, on_device_of(sentences.ids[select], log_p)[:, None])[:, 0]
        return sum_over_rows(of_tokens, sentences.layout.row[select], len(time))

    def _has_no(self, what: str) -> NoReturn:
        raise ValueError(f"{type(self).__name__} has no {what}; expected a model of another family")


@dataclass(frozen=True)
class ScheduledNoise:
    """The two options of a family whose noise follows a schedule. List it before `Family` among the base classes."""

    schedule: str = "loglinear"
    """Name of the noise schedule (schedule.py)."""
    schedule_options: dict[str, float] = field(default_factory=dict)
    """Keyword arguments of the schedule."""

    @property
    def noise(self) -> Schedule:
        """The schedule with its options; ValueError for an unknown name."""
        return build_schedule(self.schedule, **self.schedule_options)


def sum_over_rows(values: Tensor, row: Tensor, num_rows: int) -> Tensor:
    """Sum values [M] over the rows that row [M] assigns them to. Returns [B], float64."""
    row = on_device_of(row, values)
    return torch.zeros(num_rows, dtype=torch.float64, device=values.device).index_add(0, row, values.double())


def on_device_of(values: Tensor, answers: Tensor) -> Tensor:
    """Copy values that were computed on the CPU to the device of a network's outputs, without synchronisation."""
    return to_device(values, answers.device)
