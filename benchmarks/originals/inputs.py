"""The input that all comparisons share, our network with the originals' weights, and how a difference is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion_lm.backbones import dit
from diffusion_lm.draws import NoiseDraw
from diffusion_lm.families import SpecialIds
from diffusion_lm.foreign.mdlm_weights import parameter_names
from diffusion_lm.layout import Layout, Sentences
from diffusion_lm.visibility import Visibility
from originals.imports import Settings, shared_weights

ROWS, LENGTH, PIECES, MASK = 16, 12, 20, 20
WIDTH, BLOCKS, HEADS, COND = 32, 2, 2, 16
EPS = 1e-3  # smallest time of MDLM, Duo and BD3-LM
LAYOUT = Layout(torch.full((ROWS,), LENGTH))
MODEL = Settings(
    hidden_size=WIDTH, n_blocks=BLOCKS, n_heads=HEADS, cond_dim=COND, length=LENGTH, max_seq_len=LENGTH, dropout=0.1
)
MODEL |= {"scale_by_sigma": True, "tie_word_embeddings": False, "attn_backend": "sdpa", "causal": True}


class Line(NamedTuple):
    """One comparison, or a `figure` where we have nothing to compare with."""

    original: str
    what: str
    whole: float | None = None
    formula: float | None = None
    figure: str | None = None


class Noise(NamedTuple):
    """The shared input: ids, and uniform numbers for the noise of both sides. First and last position stay clean."""

    ids: Tensor  # [ROWS, LENGTH]
    time: Tensor  # [ROWS] uniform in (0, 1), small to large
    keep: Tensor  # [ROWS, LENGTH] uniform in (0, 1); 2 where nothing is noised

    @classmethod
    def of(cls, dtype: torch.dtype, *, latest: float = 0.998) -> Noise:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(0, PIECES, (ROWS, LENGTH), generator=generator)
        keep = torch.rand(ROWS, LENGTH, generator=generator)
        keep[:, 0] = keep[:, -1] = 2.0
        # A token of each row is noised even at the smallest time.
        keep[:, 5] *= 1e-4
        return cls(ids, torch.linspace(0.001, latest, ROWS, dtype=dtype), keep.to(dtype))

    @property
    def sentences(self) -> Sentences:
        return Sentences(self.ids.flatten(), LAYOUT)

    def draw(self, time: Tensor | None = None) -> NoiseDraw:
        return NoiseDraw(self.time if time is None else time, self.keep.flatten())


def relative(theirs: Tensor, ours: Tensor) -> float:
    """Largest difference of any token, relative to the larger of the two values."""
    theirs, ours = theirs.detach().flatten().double(), ours.detach().flatten().double()
    assert theirs.shape == ours.shape, (theirs.shape, ours.shape)
    return ((theirs - ours).abs() / torch.maximum(theirs.abs(), ours.abs()).clamp(min=1e-30)).max().item()


def of_largest(theirs: Tensor, ours: Tensor) -> float:
    """Largest difference of two networks' logits, relative to the largest logit."""
    return ((theirs.flatten() - ours.flatten()).abs().max() / theirs.abs().max()).item()


def special() -> SpecialIds:
    """All ids except the mask are pieces, because the originals can predict every other symbol; no BOS or EOS."""
    return SpecialIds(PIECES, MASK, bos_id=PIECES + 2, eos_id=PIECES + 3, num_inputs=PIECES + 1)


def our_network(theirs: nn.Module, *, visibility: Visibility = "bidirectional") -> dit.DiT:
    """Our network with the originals' weights."""
    weights = shared_weights(theirs, parameter_names(BLOCKS, conditioned=visibility != "causal"))
    symbols = len(weights["embedding.weight"])
    network = dit.DiT(
        dit.DiTConfig(WIDTH, BLOCKS, HEADS, COND),
        num_inputs=symbols,
        num_outputs=symbols,
        visibility=visibility,
    )
    network.load_state_dict(weights)
    return network.eval()


def some_logits(symbols: int) -> Tensor:
    """[ROWS, LENGTH, symbols] logits of both networks in comparisons of the formulas only."""
    return torch.randn(ROWS, LENGTH, symbols, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2


def saying(logits: Tensor) -> Callable[..., Tensor]:
    """A network of ours that returns `logits` for any input."""
    flat = logits.flatten(0, 1)
    return lambda ids, layout, level=None, select=None: flat if select is None else flat[select]


def costly(values: Tensor) -> Tensor:
    """The losses of masked tokens, because the originals give exactly 0 to visible tokens."""
    return values.flatten()[values.flatten() != 0]


def squeezed(time: Tensor) -> Tensor:
    """Times of MDLM, Duo and BD3-LM from uniform numbers, also with importance sampling, where ours differ."""
    return EPS + (1 - EPS) * time
