"""The interface of the sections of the report: a heading, and HTML made from the result of a rescoring.

    class Lengths(Section):                                      # a new section, in your program
        title, anchor = "Lengths of the hypotheses", "lengths"
        def html(self, result): return f"<p>{len(result.test_lists)} utterances</p>"

    SECTIONS.add(Lengths.anchor, Lengths())                      # shown after the existing sections

The page shows all sections of the registry in order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from rescore.report.result import RescoreResult


class Section(ABC):
    """A part of the page. Its objects have no state."""

    title: ClassVar[str]
    """The heading; "" for a section directly below the title of the page."""
    anchor: ClassVar[str]
    """The id of its element, for links such as report.html#curves."""
    css: ClassVar[str] = ""
    """Style of the section, in addition to the shared style."""
    script: ClassVar[str] = ""
    """Script that runs when the page has been loaded, if the section is shown."""

    @abstractmethod
    def html(self, result: RescoreResult) -> str:
        """The content below the heading; "" to omit the section. Text of the user must be escaped (`html.escape`)."""
