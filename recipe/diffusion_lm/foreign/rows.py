"""A row of the table of keys: how a key is read, in which modes it acts, and what a loaded model must agree with.

    Row(to("optim.lr", float), TRAIN)                                     # in other modes it has no effect
    Row(to("model.n_blocks", int), TRAIN, ("model.num_blocks",))          # in other modes it is compared with the model
    Row(to("seed", int))                                                  # acts in every mode

A mode that evaluates takes network, family and noise from the model folder: a key about them is read and compared with
the model (agreement.py). Any other key is read only in the modes in which it acts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from diffusion_lm.foreign.rules import COMPARED, HONOURED, NO_EFFECT, Reading, Rule

MODES = ("train", "ppl_eval", "sample_eval", "rescore")
TRAIN, PPL, SAMPLE, RESCORE = (("train",), ("ppl_eval",), ("sample_eval",), ("rescore",))
VALIDATION = (*TRAIN, *PPL, *SAMPLE)
"""The modes that can read a validation set; data.py has the rules that say when mode sample_eval does."""
EVALUATION = (*PPL, *SAMPLE, *RESCORE)


class Row(NamedTuple):
    """One key of the table."""

    rule: Rule
    """Checks the value, sets our settings and returns the verdict in the modes where the key acts."""
    modes: tuple[str, ...] = MODES
    """The modes in which the key acts."""
    compared: tuple[str, ...] = ()
    """Our settings that this key is about, in which the loaded model must agree with the tree in the other modes."""

    def read(self, reading: Reading, key: str, value: Any) -> tuple[str, str]:
        """Verdict and text for the value in the mode of the tree. ValueError for a refused value."""
        if reading.mode in self.modes:
            return self.rule(reading, key, value)
        if self.compared:
            verdict, text = self.rule(reading, key, value)
            return (COMPARED if verdict == HONOURED else verdict), text
        return NO_EFFECT, f"read in mode {' and '.join(self.modes)} only"
