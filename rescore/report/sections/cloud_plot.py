"""A plot of the scales that are best for each bootstrap resample, for two of the scales of a row.

    svg = draw_cloud(first_curve, second_curve, [(0.4, 1.0), (0.6, 0.2)])

Scales that are traded for each other, such as those of two similar language models, show as a line of dots.
"""

from __future__ import annotations

from collections.abc import Sequence

from rescore.combination.tuning import Curve
from rescore.report.sections.plot_frame import Frame, with_margin


def draw_cloud(first: Curve, second: Curve, points: Sequence[tuple[float, float]]) -> str:
    """An <svg> element with a dot for each of the points, and a larger one for the chosen scales.

    The axes cover the points only: the scale of `first` on x, that of `second` on y.
    """
    columns = [[first.chosen, *(x for x, _ in points)], [second.chosen, *(y for _, y in points)]]
    x_range, y_range = map(with_margin, columns)
    frame = Frame(x_range, y_range, f"scale of {first.name}", f"scale of {second.name}")
    dots = [f'<circle class="one" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>' for x, y in points]
    chosen = f'<circle class="chosen" cx="{frame.x(first.chosen):.1f}" cy="{frame.y(second.chosen):.1f}" r="4.5"/>'
    label = f"Best scales of {first.name} and {second.name} for {len(points)} resamples"
    return frame.draw([*dots, chosen], label)
