"""What verbs of this package can use of the rescore package, which this one never imports: handed in by who builds the command line.

    commands(Services(rescore=rescore_mode, open_judge=open_judge))     # of the `dlm` command; `python -m diffusion_lm` has neither

A verb that needs a service that is not there says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class RescoreMode(Protocol):
    """Scores a hypothesis file with a model: what mode `rescore` of an MDLM configuration tree does."""

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
    """Opens a language model of any kind; what it returns says the perplexity of texts in a line."""

    def __call__(self, model: str, *, device: str) -> Callable[[Sequence[str]], str]: ...


@dataclass(frozen=True)
class Services:
    """What another package does for the verbs of this one; None where that package is not there."""

    rescore: RescoreMode | None = None
    open_judge: OpenJudge | None = None

    def judge(self, model: str, *, device: str) -> Callable[[Sequence[str]], str]:
        """What measures generative perplexity under `model`. ValueError where nobody can open it."""
        if self.open_judge is None:
            raise ValueError(f"{model}: generative perplexity needs the `dlm` command")
        return self.open_judge(model, device=device)
