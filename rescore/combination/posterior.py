"""The scale of the posterior for the choice by expected errors, tuned for the fewest word errors.

    posterior = tune_posterior(lists, combined_scores(lists, scales), table, weights)
    winners(lists, replace(scales, posterior=posterior))

The errors are constant between the scales at which a choice changes; these are not computed, so a fine grid is tried.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rescore.combination.expected_errors import least_risk
from rescore.combination.line_search import Steps
from rescore.nbest.types import NBestList
from rescore.wer import ErrorTable, FloatArray, IntArray

_LOWEST, _HIGHEST, _SCALES = 1e-3, 10.0, 121


def tune_posterior(lists: Sequence[NBestList], totals: FloatArray, table: ErrorTable, weights: IntArray) -> float:
    """The scale of the posterior with the fewest word errors, between 0.001 and 10.

    `weights` [R, utterances]: how often each utterance counts in each resample; the geometric mean of their best scales
    is taken. Each is the middle of the widest best piece among 121 scales, evenly spaced in their logarithm.
    """
    grid = np.linspace(np.log(_LOWEST), np.log(_HIGHEST), _SCALES)
    errors = np.stack([table.errors_of(best) for best in least_risk(lists, totals, np.exp(grid))])
    half = (grid[1] - grid[0]) / 2
    edges = np.append(grid - half, grid[-1] + half)
    found = [Steps(edges, counts).best().middle for counts in weights @ errors.T]
    return float(np.exp(np.mean(found)))
