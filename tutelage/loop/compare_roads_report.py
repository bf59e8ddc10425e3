"""How the comparison of roads ends: as a page, as figures, as JSON, as Markdown."""

import base64
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch

from tutelage import __version__
from tutelage.checkpoint import write_atomically
from tutelage.evaluate.figures import Chart, draw
from tutelage.evaluate.report import Answer, Grid, Report, Sample, write_report
from tutelage.loop.compare_roads_config import CompareConfig
from tutelage.loop.compare_roads_table import (
    BOUND_COLUMNS,
    BOUNDS,
    COLUMNS,
    COSTS,
    SWEEP_COLUMNS,
    Found,
    Row,
    bound_rows,
    bounds_of,
    frontier,
    rows_of,
    sweep_rows,
)
from tutelage.loop.demo_report import SIMULATED
from tutelage.terminal import plain


@dataclass(frozen=True)
class Outcome:
    """Everything the comparison found."""

    rows: tuple[Row, ...]
    bounds: tuple[tuple[str, ...], ...]  # best gold at each bound of KL, as text
    sweep: tuple[tuple[str, ...], ...]
    labels: Mapping[int, Mapping[str, Any]]  # by seed
    report: Path
    results: Path

    def markdown(self) -> str:
        """The tables for a document."""
        tables = [
            (COLUMNS, [r.cells() for r in self.rows]),
            (BOUND_COLUMNS, self.bounds),
            *([(SWEEP_COLUMNS, self.sweep)] if self.sweep else []),
        ]
        return "\n\n".join(_markdown(columns, rows) for columns, rows in tables)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def conclude(config: CompareConfig, folder: Path, found: Found, command: str) -> Outcome:
    """Write the page, the figures and the numbers."""
    rows, bounds, sweep = rows_of(found), bound_rows(found), sweep_rows(found)
    charts = (frontier(found, "gold"), frontier(found, "proxy"))
    for chart, name in zip(charts, ("gold", "proxy"), strict=True):
        picture = base64.b64decode(draw(chart).source.split(",", 1)[1])
        write_atomically(folder / f"frontier-{name}.svg", picture)
    labels = {seed: dict(one["sft"]["labels"]) for seed, one in found.items()}
    outcome = Outcome(rows, bounds, sweep, labels, folder / "report.html", folder / "results.json")
    kept = {seed: {k: _without(v) for k, v in one.items() if k != "openings"} for seed, one in found.items()}
    results = {
        "command": command,
        "rows": [asdict(r) for r in rows],
        "best_gold_within": {"bounds": BOUNDS, "roads": bounds_of(found)},
        "labels": labels,
        "config": config.model_dump(mode="json"),
        "seeds": kept,
    }
    write_atomically(outcome.results, json.dumps(plain(results), indent=1, ensure_ascii=False))
    write_report(_page(config, found, outcome, charts, command), outcome.report)
    return outcome


def _without(one: Any) -> Any:
    return {k: v for k, v in one.items() if k != "texts"} if isinstance(one, Mapping) else one


def _page(config: CompareConfig, found: Found, outcome: Outcome, charts: tuple[Chart, ...], command: str) -> Report:
    label = next(iter(outcome.labels.values()))
    cells = [r.cells() for r in outcome.rows]
    grids = [
        Grid("Roads", "At the end of training. " + ABOUT, COLUMNS[:COSTS], tuple(row[:COSTS] for row in cells)),
        Grid("Best gold within a KL", ABOUT_BOUNDS, BOUND_COLUMNS, outcome.bounds),
        Grid("What they cost", "", COLUMNS[:1] + COLUMNS[COSTS:], tuple(row[:1] + row[COSTS:] for row in cells)),
    ]
    if outcome.sweep:
        grids.append(Grid("Temperature", "", SWEEP_COLUMNS, outcome.sweep))
    one = next(iter(found.values()))
    written = {name: of["texts"] for name, of in one.items() if isinstance(of, Mapping) and "texts" in of}
    samples = tuple(
        Sample(opening, tuple(Answer(name, texts[i]) for name, texts in written.items()))
        for i, opening in enumerate(one["openings"][:8])
    )
    return Report(
        title="tutelage: roads compared",
        summary=(
            f"From the same {label['rankings']} rankings of {label['completions']} completions a seed and at most "
            f"{config.completions} sampled completions, {len(found)} seed{'s'[: len(found) != 1]}."
        ),
        annotators=SIMULATED,
        grids=tuple(grids),
        charts=charts,
        samples=samples,
        configuration=config.model_dump(mode="json"),
        facts={
            "Command": command,
            "Version": f"tutelage {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
            "Machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "Seeds": ", ".join(map(str, found)),
            "Date": date.today().isoformat(),
        },
    )


ABOUT = (
    "Wins are against SFT's texts for the same held-out prompts, in both orders, ties half; 95 % intervals, n counts "
    "prompts; same words: by the unseen judge, both texts cut to as many words as the shorter has. Gold, proxy, KL, "
    "words and costs are means of the seeds, the lowest and the highest beside them."
)
ABOUT_BOUNDS = "Of each road's points, SFT itself among them; means of the seeds. Share: of PPO's gain over SFT."
