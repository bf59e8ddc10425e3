"""Figures for the report: small SVGs, drawn by matplotlib, that stay readable at the width of a telephone.

Each comes with a text that says what it shows, for those who cannot see it.
"""

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tutelage.errors import DataError
from tutelage.evaluate.calibration import Calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL, LARGE = 3.9, 4.7
INK, MUTED, GRID = "#1b2733", "#5b6875", "#e4e9ee"
COLOURS = ("#2457d6", "#d9730d", "#0f8a6d", "#8b46c9", "#c2334d", "#5b6875", "#b08a00", "#0aa0c4", "#d13fa0", "#6b4a2b")
STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Inter", "system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": "#b8c2cc",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "tutelage",
}


@dataclass(frozen=True)
class Line:
    """A series of a chart; `low` and `high`, where given, shade its interval. If x goes back and forth, dots only."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    points: bool = False
    """Mark each point: for a few measurements rather than a curve."""


@dataclass(frozen=True)
class Chart:
    """Series over one axis. Points that are not finite are left out, and the text beside the figure says so."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A drawn chart: an SVG as a data URI, and the text that stands for it."""

    title: str
    caption: str
    source: str
    alt: str


def draw(chart: Chart) -> Figure:
    """Draw a line chart.

    Raises:
        DataError: no lines, or a line without one y (and one low and high, where given) for each x.
    """
    if not chart.lines:
        raise DataError(f"the chart {chart.title!r} has no lines")
    said = []
    with _canvas() as (axes, finish):
        for colour, line in zip(_colours(len(chart.lines)), chart.lines, strict=True):
            said.append(_plot(axes, chart, line, colour))
        axes.set_xlabel(chart.x_label)
        axes.set_ylabel(chart.y_label)
        axes.margins(x=0.02, y=0.12)
        if len(chart.lines) > 1:
            axes.legend(**_above(len(chart.lines)))
        source = finish()
    alt = f"Line chart of {chart.y_label} over {chart.x_label}. " + " ".join(said)
    return Figure(title=chart.title, caption=chart.caption, source=source, alt=alt)


def _plot(axes: "Axes", chart: Chart, line: Line, colour: str) -> str:
    sizes = {len(line.x), len(line.y)} | {len(band) for band in (line.low, line.high) if band}
    if len(sizes) != 1 or bool(line.low) != bool(line.high):
        raise DataError(f"line {line.label!r} of {chart.title!r}: x, y, low and high must be equally long")
    finite = [i for i in range(len(line.x)) if math.isfinite(line.x[i]) and math.isfinite(line.y[i])]
    if not finite:
        return f"{line.label}: no finite points."
    x, y = [line.x[i] for i in finite], [line.y[i] for i in finite]
    cloud = sorted(x) != x
    marked = line.points or cloud or len(finite) == 1
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=0 if cloud else 2,
        alpha=0.7 if cloud else 1,
        marker="o" if marked else None,
        markersize=4.5,
        label=line.label,
    )
    if line.low:
        axes.fill_between(
            x, [line.low[i] for i in finite], [line.high[i] for i in finite], color=colour, alpha=0.14, lw=0
        )
    lost = len(line.x) - len(finite)
    hidden = f", {lost} points not finite" if lost else ""
    return (
        f"{line.label}: {y[0]:.3g} at {x[0]:.3g}, {y[-1]:.3g} at {x[-1]:.3g}, "
        f"lowest {min(y):.3g}, highest {max(y):.3g}{hidden}."
    )


def draw_reliability(calibration: Calibration) -> Figure:
    """Stated against observed probability, one point a bin, larger where there are more pairs."""
    most = max(b.n for b in calibration.bins)
    with _canvas(LARGE) as (axes, finish):
        axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="perfect")
        x, y = [b.confidence for b in calibration.bins], [b.observed for b in calibration.bins]
        axes.plot(x, y, color=COLOURS[0], linewidth=1.2, alpha=0.5)
        sizes = [18 + 110 * b.n / most for b in calibration.bins]
        axes.scatter(x, y, s=sizes, color=COLOURS[0], edgecolor="white", linewidth=1, zorder=3, label="reward model")
        axes.set_xlim(0.48, 1.02)
        axes.set_ylim(min(0.4, *y) - 0.03, 1.04)
        axes.set_xlabel("stated probability of the favoured text")
        axes.set_ylabel("how often it won")
        source = finish()
    points = ", ".join(
        f"{b.confidence:.2f} stated and {b.observed:.2f} observed ({b.n} pairs)" for b in calibration.bins
    )
    return Figure(
        title="Reliability of the reward model",
        caption=(
            "On the dashed line, “80 % sure” is right in 80 of 100 pairs; below it the model is too sure. "
            "Larger dots hold more pairs."
        ),
        source=source,
        alt=f"Reliability diagram: {points}.",
    )


def draw_lengths(lengths: Mapping[str, Sequence[float]]) -> Figure:
    """How long each system's texts are, in words, as outlines over one another.

    Raises:
        DataError: a system without texts.
    """
    if not all(len(words) for words in lengths.values()):
        raise DataError("a system has no lengths to draw: leave it out, or give the words of each of its texts")
    longest = max(max(words) for words in lengths.values())
    edges = np.linspace(0, longest + 1, int(min(24, longest + 1)) + 1)
    with _canvas(LARGE) as (axes, finish):
        for colour, (name, words) in zip(_colours(len(lengths)), lengths.items(), strict=True):
            share = np.histogram(words, edges)[0] / len(words) * 100
            axes.stairs(share, edges, color=colour, linewidth=2, label=name)
            axes.stairs(share, edges, color=colour, fill=True, alpha=0.10)
        axes.set_xlabel("words")
        axes.set_ylabel("% of texts")
        axes.legend(**_above(len(lengths)))
        source = finish()
    said = ", ".join(f"{name}: median {np.median(words):.0f} words" for name, words in lengths.items())
    return Figure(
        title="Length of the texts",
        caption="A judge that likes length is easily pleased; compare before reading the win rates.",
        source=source,
        alt=f"Histogram of lengths. {said}.",
    )


@contextmanager
def _canvas(width: float = SMALL) -> Iterator[tuple[Any, Any]]:
    """Empty axes, `width` inches wide, and a function that turns what was drawn into a data URI."""
    import matplotlib
    from matplotlib.figure import Figure as Sheet

    with matplotlib.rc_context(STYLE):
        sheet = Sheet(figsize=(width, 0.68 * width), layout="constrained")

        def finish() -> str:
            file = io.BytesIO()
            sheet.savefig(file, format="svg", transparent=True, metadata={"Date": None})
            return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode()

        yield sheet.add_subplot(), finish


def _colours(n: int) -> tuple[str, ...]:
    return tuple(COLOURS[i % len(COLOURS)] for i in range(n))


def _above(n: int) -> dict[str, Any]:
    """Place a legend above the axes, out of the curves' way."""
    return {
        "loc": "lower left",
        "bbox_to_anchor": (-0.02, 1.0),
        "ncols": min(n, 3),
        "handlelength": 1.2,
        "columnspacing": 1.2,
        "borderaxespad": 0.2,
        "handletextpad": 0.5,
    }
