"""A small SVG plot of the WER over one scale, with the chosen point.

    svg = draw_curve(curve)

The SVG is a text without script; its colours come from the CSS of the page.
"""

from __future__ import annotations

from html import escape
from math import floor, log10

from rescore.combination.tuning import Curve

_WIDTH, _HEIGHT = 380, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 14, 40


def draw_curve(curve: Curve) -> str:
    """An <svg> element with the scale on the x axis, the WER (%) on the y axis, and the plateau shaded."""
    low, high = curve.grid[0], curve.grid[-1]
    values = [*curve.wer_percent, curve.chosen_wer_percent]
    margin = 0.08 * (max(values) - min(values)) or 0.5
    bottom, top = min(values) - margin, max(values) + margin

    def x(scale: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (scale - low) / (high - low)

    def y(wer: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (wer - bottom) / (top - bottom)

    parts = []
    for tick in _ticks(bottom, top, 4):
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{y(tick) + 3.5:.1f}">{tick:g}</text>')
    floor_line = _HEIGHT - _BOTTOM
    for tick in _ticks(low, high, 6):
        parts.append(
            f'<line class="axis" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{floor_line}" y2="{floor_line + 4}"/>'
        )
        parts.append(f'<text class="mid" x="{x(tick):.1f}" y="{floor_line + 16}">{tick:g}</text>')
    start, end = x(curve.plateau[0]), x(curve.plateau[1])
    parts.append(
        f'<rect class="plateau" x="{start:.1f}" y="{_TOP}" width="{max(end - start, 1.0):.1f}" '
        f'height="{floor_line - _TOP}"/>'
    )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{floor_line}" y2="{floor_line}"/>')
    points = " ".join(f"{x(scale):.1f},{y(wer):.1f}" for scale, wer in zip(curve.grid, curve.wer_percent))
    parts.append(f'<polyline class="curve" points="{points}"/>')
    dot_x, dot_y = x(curve.chosen), y(curve.chosen_wer_percent)
    anchor, shift = ("end", -9) if curve.chosen > (low + high) / 2 else ("start", 9)
    label = f"{curve.chosen:.3g} → {curve.chosen_wer_percent:.2f} %"
    parts.append(
        f'<circle class="chosen" cx="{dot_x:.1f}" cy="{dot_y:.1f}" r="4.5"><title>{escape(label)}</title></circle>'
    )
    parts.append(f'<text class="label {anchor}" x="{dot_x + shift:.1f}" y="{_TOP + 12}">{escape(label)}</text>')
    parts.append(
        f'<text class="mid name" x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 5}">'
        f"scale of {escape(curve.name)}</text>"
    )
    parts.append(f'<text class="start" x="4" y="{_TOP - 3}">WER %</text>')
    name = escape(f"WER over the scale of {curve.name}; chosen {label}", quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


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
