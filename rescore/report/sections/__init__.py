"""The registry of the sections of the report, in the order of the page.

    SECTIONS["curves"].html(result)

Each section is a file in this folder and an entry of `SECTIONS`; `base.Section` defines the interface.
"""

from __future__ import annotations

from rescore.report.sections.base import Section
from rescore.report.sections.changed_winners import ChangedWinners
from rescore.report.sections.comparisons import Comparisons
from rescore.report.sections.curves import Curves
from rescore.report.sections.errors import Errors
from rescore.report.sections.provenance import Provenance
from rescore.report.sections.results import Results
from rescore.report.sections.warnings import Warnings
from returnn_bridge.registry import Registry

_ENTRIES = (Warnings(), Results(), Comparisons(), Curves(), Errors(), ChangedWinners(), Provenance())

SECTIONS: Registry[Section] = Registry("section of the report", {section.anchor: section for section in _ENTRIES})
