"""What a section of the report is: a heading, and HTML made from the result of a rescoring.

class Lengths(Section):                                      # a section of your own, in your own program
    title, anchor = "Lengths of the hypotheses", "lengths"
    def html(self, result): return f"<p>{len(result.test_lists)} utterances</p>"

SECTIONS.add(Lengths.anchor, Lengths())                      # shown after those that are there already
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from rescore.report.result import RescoreResult


class Section(ABC):
    """A part of the page. An object of it has no state."""

    title: ClassVar[str]
    """The heading; "" for a section that the title of the page stands for."""
    anchor: ClassVar[str]
    """The id of its element, for links such as report.html#curves."""
    css: ClassVar[str] = ""
    """Added to the style that all sections share."""
    script: ClassVar[str] = ""
    """Runs once the page is there, and only if the section is shown."""

    @abstractmethod
    def html(self, result: RescoreResult) -> str:
        """What stands below the heading; "" leaves the section out. Text from outside must be escaped (`html.escape`)."""
