"""A plot of the WER over one scale, with the chosen point and the choices of the resamples.

    svg = draw_curve(curve, [0.4, 0.5, 0.7], y_range=(20.0, 30.0), levels={"oracle": 21.5})

The curve holds for the other scales as chosen; a resample may have chosen others together with its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from rescore.combination.tuning import Curve
from rescore.report.sections.plot_frame import BOTTOM, LEFT, RIGHT, TOP, Frame


def draw_curve(
    curve: Curve, drawn: Sequence[float] = (), *, y_range: tuple[float, float], levels: Mapping[str, float]
) -> str:
    """An <svg> element with the scale on the x axis, the WER (%) on the y axis, the plateau shaded, and a stroke above
    the x axis for each scale in `drawn`.

    `y_range`: of the y axis; a curve that leaves it is cut off. `levels`: WERs (%) by name, as dashed lines.
    """
    frame = Frame((curve.grid[0], curve.grid[-1]), y_range, f"scale of {curve.name}", "WER %")

    def cut(wer: float) -> float:
        return frame.y(min(max(wer, y_range[0]), y_range[1]))

    start, end = map(frame.x, curve.plateau)
    points = " ".join(f"{frame.x(scale):.1f},{cut(wer):.1f}" for scale, wer in zip(curve.grid, curve.wer_percent))
    dot_x, dot_y = frame.x(curve.chosen), cut(curve.chosen_wer_percent)
    anchor, shift = ("end", -9) if curve.chosen > (curve.grid[0] + curve.grid[-1]) / 2 else ("start", 9)
    label = f"{curve.chosen:.3g} → {curve.chosen_wer_percent:.2f} %"
    parts = [
        *(_level(name, frame.y(wer)) for name, wer in levels.items()),
        f'<rect class="plateau" x="{start:.1f}" y="{TOP}" width="{max(end - start, 1.0):.1f}" '
        f'height="{BOTTOM - TOP}"/>',
        *(f'<path class="drawn" d="M{frame.x(scale):.1f} {BOTTOM}v-7"/>' for scale in drawn),
        f'<polyline class="curve" points="{points}"/>',
        f'<circle class="chosen" cx="{dot_x:.1f}" cy="{dot_y:.1f}" r="4.5"><title>{escape(label)}</title></circle>',
        f'<text class="label {anchor}" x="{dot_x + shift:.1f}" y="{dot_y + 16:.1f}">{escape(label)}</text>',
    ]
    return frame.draw(parts, f"WER over the scale of {curve.name}; chosen {label}")


def _level(name: str, at: float) -> str:
    return (
        f'<line class="level" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        f'<text class="end" x="{RIGHT - 2}" y="{at - 4:.1f}">{escape(name)}</text>'
    )
