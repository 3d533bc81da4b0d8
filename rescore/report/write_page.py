"""The HTML report of a rescoring run: table, WER over the scales, the utterances whose winner changed.

    write_report("out/report.html", rescore(...))

The page itself is made in html_report.py, from the table and these changes.
"""

from __future__ import annotations

import os

from rescore.combination.scales import winners
from rescore.pipeline import RescoreResult
from rescore.report.changes import changed_winners
from rescore.report.page import write_html


def write_report(path: str | os.PathLike[str], result: RescoreResult) -> None:
    """Write one self-contained page; changes are against the table's baseline."""
    before = winners(result.test_lists, result.scales[result.table.baseline])
    curves = {name: tuned.curves for name, tuned in result.tuned.items()}
    changes = {
        name: changed_winners(result.test_lists, before, winners(result.test_lists, scales))
        for name, scales in result.scales.items()
        if name != result.table.baseline
    }
    warnings = [f"{name}: {warning}" for name, tuned in result.tuned.items() for warning in tuned.warnings]
    write_html(path, result.table, curves, changes, {"warnings": warnings} if warnings else {})
