"""The frame that the plots of the report share: two axes with ticks, and what is drawn in it, as an <svg> element.

    frame = Frame(x_range=(0.0, 3.0), y_range=(-2.0, 2.0), x_name="scale of ar", y_name="words")
    svg = frame.draw([f'<circle cx="{frame.x(0.6):.1f}" cy="{frame.y(1.0):.1f}" r="2"/>'], "what a screen reader says")

The SVG is a text without script; its colours come from the CSS of the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import floor, log10

_WIDTH, _HEIGHT = 380, 220
LEFT, RIGHT, TOP, BOTTOM = 46, _WIDTH - 14, 14, _HEIGHT - 40
"""Where the axes end, in units of the SVG; y grows downwards."""


@dataclass(frozen=True)
class Frame:
    """A plot region over a range of x and of y."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_name: str
    y_name: str

    def x(self, value: float) -> float:
        """The place of a value on the x axis, in units of the SVG."""
        low, high = self.x_range
        return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        """The place of a value on the y axis, in units of the SVG."""
        low, high = self.y_range
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    def draw(self, parts: Sequence[str], label: str) -> str:
        """The <svg> with the axes and these elements; `label` is unescaped text."""
        lines = []
        for tick in _ticks(*self.y_range, 4):
            at = self.y(tick)
            lines.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
            lines.append(f'<text class="end" x="{LEFT - 6}" y="{at + 3.5:.1f}">{tick:g}</text>')
        for tick in _ticks(*self.x_range, 6):
            at = self.x(tick)
            lines.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{BOTTOM}" y2="{BOTTOM + 4}"/>')
            lines.append(f'<text class="mid" x="{at:.1f}" y="{BOTTOM + 16}">{tick:g}</text>')
        lines.append(f'<line class="axis" x1="{LEFT}" x2="{RIGHT}" y1="{BOTTOM}" y2="{BOTTOM}"/>')
        names = (
            f'<text class="mid name" x="{(LEFT + RIGHT) / 2}" y="{_HEIGHT - 5}">{escape(self.x_name)}</text>'
            f'<text class="start" x="4" y="{TOP - 3}">{escape(self.y_name)}</text>'
        )
        content = "".join([*lines, *parts, names])
        return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">{content}</svg>'


def with_margin(values: Sequence[float]) -> tuple[float, float]:
    """The range of some values, a little wider; never empty."""
    margin = 0.08 * (max(values) - min(values)) or 0.5
    return min(values) - margin, max(values) + margin


def _ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) between the ends."""
    rough = (high - low) / count
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * factor for factor in (1.0, 2.0, 5.0, 10.0) if unit * factor >= rough * 0.999)
    first = -floor(-low / step + 1e-9)
    ticks = []
    while first * step <= high + 1e-9 * step:
        ticks.append(round(first * step, 12))
        first += 1
    return ticks
