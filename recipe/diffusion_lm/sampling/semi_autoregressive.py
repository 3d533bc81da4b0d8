"""Draw longer texts from a masked model with a sliding window (Sahoo et al., arXiv 2406.07524, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

from diffusion_lm.draws import step_seed
from diffusion_lm.model import LanguageModel
from diffusion_lm.sampling.base import Sampler
from diffusion_lm.sampling.masked import PREDICTORS
from diffusion_lm.sampling.samples import Samples


class SemiAutoregressive(Sampler):
    """Draws a window of `length` pieces, then `num_strides` times `stride` more pieces, given the end of the text
    before.

    A text has length + num_strides * stride pieces. Every window is framed by BOS and EOS, as sentences were in
    training. window_predictor, steps, noise_removal: name and options of the sampler of a window.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        stride: int,
        num_strides: int,
        window_predictor: str = "ddpm_cache",
        steps: int = 1000,
        noise_removal: bool = True,
    ):
        super().__init__(model)
        self.window = PREDICTORS[window_predictor](model, steps=steps, noise_removal=noise_removal)
        self.stride, self.num_strides = stride, num_strides

    def draw(self, lengths: Sequence[int], *, seed: int, first: int) -> Samples:
        if not 1 <= self.stride <= min(lengths, default=self.stride) or self.num_strides < 0:
            raise ValueError(
                f"stride {self.stride}, num_strides {self.num_strides} for windows "
                f"from {min(lengths, default=0)} pieces: expected 1 <= stride <= window and num_strides >= 0"
            )
        mask = self.family.special.mask_id
        windows = [[mask] * length for length in lengths]
        texts: list[list[int]] = [[] for _ in lengths]
        passes = 0
        for number in range(self.num_strides + 1):
            # Every window has its own seed; with the same one, all would be revealed in the same order.
            drawn = self.window.fill(windows, seed=step_seed(seed, "window", number, 0), first=first)
            passes += drawn.passes
            for text, window in zip(texts, drawn.tokens):
                text += window if number == 0 else window[-self.stride :]
            windows = [window[self.stride :] + [mask] * self.stride for window in drawn.tokens]
        return Samples(texts, passes, sum(mask in text for text in texts))
