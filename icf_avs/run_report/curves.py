"""The curves of a run as SVG: a panel for each term of the loss, a colour for each stage."""

from __future__ import annotations

import io

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from icf_avs.run_report.record import Series

COLOURS = {"teach": "#4477aa", "learn": "#ee6677", "finish": "#228833", "validation": "#aa3377"}
COLUMNS, WIDTH, HEIGHT = 3, 3.4, 2.1  # panels of a row, and inches of a panel
PANELS = 60  # at most: a log of ours has a third of that
_STYLE = {
    "svg.hashsalt": "icf",  # the same bytes from the same numbers
    "svg.fonttype": "none",
    "font.size": 8,
    "text.parse_math": False,  # names of terms are no formulas
}


def curves(stages: dict[str, Series]) -> str:
    """One SVG: the loss first, then every other term against the step; thin as logged, thick its running mean."""
    names = list(dict.fromkeys(name for terms in stages.values() for name in terms))
    names = sorted(names, key=lambda name: name != "loss")[:PANELS]
    rows = -(-len(names) // COLUMNS)
    with plt.rc_context(_STYLE):
        size = (COLUMNS * WIDTH, rows * HEIGHT)
        figure, axes = plt.subplots(rows, COLUMNS, figsize=size, layout="constrained", squeeze=False)
        for place, name in zip(axes.flat, names, strict=False):
            place.set_title(name)
            for stage, terms in stages.items():
                if name in terms:
                    _draw(place, *terms[name], COLOURS.get(stage, "#777777"))
            place.spines[["top", "right"]].set_visible(False)
            place.grid(alpha=0.2)
        for place in axes.flat[len(names) :]:
            place.axis("off")
        shown = [plt.Line2D([], [], color=COLOURS.get(stage, "#777777"), label=stage) for stage in stages]
        figure.legend(handles=shown, loc="outside upper left", ncols=len(shown), frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        plt.close(figure)
    return text.getvalue()


def _draw(place: plt.Axes, steps: list[int], values: list[float], colour: str) -> None:
    if len(values) < 30:
        place.plot(steps, values, color=colour, linewidth=1.2, marker="." if len(values) < 12 else None)
        return
    place.plot(steps, values, color=colour, linewidth=0.5, alpha=0.3)
    place.plot(steps, running_mean(values, len(values) // 15), color=colour, linewidth=1.4)


def running_mean(values: list[float], reach: int) -> np.ndarray:
    """Mean over up to `reach` values to each side, as many on the left as on the right."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    half = np.minimum(reach, np.minimum(at, len(values) - 1 - at))
    return (sums[at + half + 1] - sums[at - half]) / (2 * half + 1)
