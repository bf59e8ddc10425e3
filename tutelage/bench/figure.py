"""What the benchmark found, drawn: ratios of rows, curves of growth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.bench.growth import Curve
from tutelage.bench.work import ROWS
from tutelage.errors import ConfigError, DataError
from tutelage.evaluate.figures import COLOURS, INK, MUTED, STYLE

FORMATS = (".png", ".svg", ".pdf")


def check_figure(path: Path) -> None:
    """Before anything is measured: make the figure's folder. Raises ConfigError where it could not be written."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"--figure is {path}: give a file that ends in {', '.join(FORMATS)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--figure is {path}, whose folder can't be made: {error}") from error


def draw_ratios(rows: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A bar a row: how many times as fast as the peer's fastest way; its rounds as a whisker, its target as a line.

    `rows` as the history has them, by name. Those without a peer are left out. Raises DataError when none is left.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    known = [name for name in ROWS if rows.get(name, {}).get("ratio")]
    if not known:
        raise DataError("there is no ratio to draw: no row was measured beside a peer")
    with rc_context(STYLE):
        sheet = Figure(figsize=(6.4, 0.9 + 0.42 * len(known)), layout="constrained")
        axes = sheet.subplots()
        for place, name in enumerate(known):
            ratio, target = rows[name]["ratio"], rows[name]["target"]
            middle, low, high = ratio["median"], ratio["low"], ratio["high"]
            axes.barh(place, middle, height=0.6, color=COLOURS[2] if middle >= target else COLOURS[1])
            axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
            axes.plot([target, target], [place - 0.4, place + 0.4], color=INK, linewidth=2.2)
            axes.annotate(f"{middle:.2f}", (max(high, target), place), (5, 0), textcoords="offset points", va="center")
        axes.axvline(1, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(known)), [ROWS[name].what for name in known])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlim(0, 1.1 * max(max(rows[name]["ratio"]["high"], rows[name]["target"]) for name in known))
        axes.set_xlabel("times as fast as the peer's fastest way; line: target")
        sheet.savefig(path, dpi=110)


def draw_growth(found: Sequence[Curve], path: Path) -> None:
    """Speed and memory of each curve, side by side."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        sheet = Figure(figsize=(3.2 * len(found), 5.2), layout="constrained")
        rows = sheet.subplots(2, len(found), squeeze=False)
        for place, curve in enumerate(found):
            names = [p.at for p in curve.points]
            rows[0][place].plot(names, [p.tokens_per_second for p in curve.points], "o-")
            rows[1][place].plot(names, [p.peak_bytes / 1e6 for p in curve.points], "o-")
            rows[0][place].set_title(curve.title.partition(",")[0])
            rows[1][place].set_xlabel(curve.along)
            for row in rows:
                row[place].set_ylim(0, 1.1 * row[place].dataLim.ymax)
        rows[0][0].set_ylabel("tokens/s")
        rows[1][0].set_ylabel("peak memory, MB")
        sheet.savefig(path, dpi=110)
