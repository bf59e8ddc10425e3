"""Figures of the leads' pages: small inline SVGs, drawn in percent of their own size so that they fit any screen.

Colours and strokes are the style sheet's: an SVG here has classes and attributes, and no style of its own. The numbers
that a figure shows always stand beside it as text; a screen reader is told what it shows, or passes it by.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

from tutelage.evaluate.statistics import Rate

ROW, CHART = 18, 110  # pixels high
RADIUS = 4.5


def whisker(low: float, value: float, high: float, *, end: float = 1.0, middle: float | None = None) -> Markup:
    """A dot with its interval on an axis from 0 to `end`; `middle` marks no leaning, what leaves it out is marked."""
    mark = "" if middle is None else _line("middle", _x(middle / end), "0", _x(middle / end), str(ROW))
    name = "whisker off" if middle is not None and not low <= middle <= high else "whisker"
    drawn = [
        _line("axis", "0", "50%", "100%", "50%"),
        mark,
        _line("interval", _x(low / end), "50%", _x(high / end), "50%"),
        _dot(_x(value / end), "50%"),
    ]
    return _svg(name, ROW, drawn, None)


def rate(shown: Rate, *, middle: float | None = None) -> Markup:
    """A share from 0 to 100 % with its interval."""
    return whisker(shown.low, shown.rate, shown.high, middle=middle)


def bar(parts: Sequence[tuple[str, int]], total: int, said: str) -> Markup:
    """Parts of a total, each with the class it is drawn in, one after the other."""
    drawn, x = ['<rect class="ground" width="100%" height="100%"/>'], 0.0
    for name, count in parts:
        share = count / total if total else 0.0
        drawn.append(f'<rect class="{name}" x="{_x(x)}" width="{_x(share)}" height="100%"/>')
        x += share
    return _svg("bar", 10, drawn, said)


def columns(counts: Mapping[str, int], said: str) -> Markup:
    """A column for each name, such as a day, as high as its count; over the highest stands how much that is."""
    most, n = max(counts.values(), default=0) or 1, len(counts)
    drawn = [_line("axis", "0", "100%", "100%", "100%")]
    for i, (name, count) in enumerate(counts.items()):
        box = f'x="{_x((i + 0.12) / n)}" width="{_x(0.76 / n)}" y="{_x(1 - count / most)}" height="{_x(count / most)}"'
        drawn.append(f'<rect class="column" {box}><title>{escape(name)}: {count:,}</title></rect>')
    highest = next((i for i, count in enumerate(counts.values()) if count == most), None)
    if highest is not None:
        drawn.append(f'<text x="{_x((highest + 0.5) / n)}" y="0" dy="-4">{most:,}</text>')
    return _svg("columns", CHART, drawn, said)


def steps(rates: Sequence[tuple[str, Rate]], said: str) -> Markup:
    """Shares from 0 to 100 %, from round to round: dots with their intervals, joined."""
    drawn = [_line("grid", "0", _x(y / 4), "100%", _x(y / 4)) for y in range(5)]
    drawn += [f'<text x="0" y="{_x(1 - y / 2)}" dy="-3">{50 * y} %</text>' for y in range(3)]
    at = [(_x((i + 0.5) / len(rates)), one) for i, (_, one) in enumerate(rates)]
    drawn += [_line("path", x, _x(1 - a.rate), x2, _x(1 - b.rate)) for (x, a), (x2, b) in pairwise(at)]
    for (name, _), (x, one) in zip(rates, at, strict=True):
        drawn.append(_line("interval", x, _x(1 - one.high), x, _x(1 - one.low)))
        drawn.append(_dot(x, _x(1 - one.rate), f"{name}: {one}"))
    return _svg("steps", CHART, drawn, said)


def _x(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def _line(name: str, x1: str, y1: str, x2: str, y2: str) -> str:
    return f'<line class="{name}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _dot(x: str, y: str, title: str = "") -> str:
    told = f"<title>{escape(title)}</title>" if title else ""
    return f'<circle class="dot" cx="{x}" cy="{y}" r="{RADIUS}">{told}</circle>'


def _svg(name: str, height: int, drawn: Iterable[str], said: str | None) -> Markup:
    """`said` is what it shows in words; without it the figure is passed by, since its numbers stand beside it."""
    told = 'aria-hidden="true"' if said is None else f'role="img" aria-label="{escape(said)}"'
    inside = "".join(drawn)
    return Markup(f'<svg class="{name}" width="100%" height="{height}" {told} focusable="false">{inside}</svg>')
