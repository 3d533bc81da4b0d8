"""Functions of the rescore package that verbs of this package call. This package never imports that one.

    commands(Services(rescore=rescore_mode, open_judge=open_judge))     # `python -m diffusion_lm` passes neither

The `dlm` command passes them. A verb raises ValueError if it needs a missing service.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class RescoreMode(Protocol):
    """Scores a hypothesis file with a model, for mode `rescore` of an MDLM configuration tree."""

    def __call__(
        self,
        hypothesis_file: str,
        output: Path,
        model_folder: str,
        *,
        estimator: str,
        passes: int,
        seed: int,
        device: str,
    ) -> None: ...


class OpenJudge(Protocol):
    """Opens a language model of any kind. The result maps texts to one line that states their perplexity."""

    def __call__(self, model: str, *, device: str) -> Callable[[Sequence[str]], str]: ...


@dataclass(frozen=True)
class Services:
    """Functions of another package for the verbs of this one; None if they are not available."""

    rescore: RescoreMode | None = None
    """Scores a hypothesis file."""
    open_judge: OpenJudge | None = None
    """Opens the language model that measures generative perplexity."""

    def judge(self, model: str, *, device: str) -> Callable[[Sequence[str]], str]:
        """Function that measures generative perplexity with `model`; ValueError without `open_judge`."""
        if self.open_judge is None:
            raise ValueError(f"{model}: generative perplexity needs the `dlm` command")
        return self.open_judge(model, device=device)
