"""All roads from the same labels, compared."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Group

from tutelage.commands.flags import Config, Json, with_settings
from tutelage.loop.compare_roads import compare_roads as run_compare
from tutelage.loop.compare_roads_config import CompareConfig
from tutelage.loop.compare_roads_report import Outcome
from tutelage.loop.compare_roads_table import BOUND_COLUMNS, COLUMNS, SWEEP_COLUMNS
from tutelage.settings import FLAG, Layer, nested, read_yaml, resolve
from tutelage.terminal import Answer, table

OWN = ("seeds", "roads", "completions", "points", "prompts", "prompts_along", "best_of", "betas", "temperatures")


@with_settings(CompareConfig, *OWN)
def compare_roads(
    *,
    folder: Path = Path("tutelage-roads"),
    config: Config = None,
    mini: Annotated[bool, Parameter(negative="")] = False,
    markdown: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Take every road from the same rankings and show what each is worth and costs: reward, KL, wins, time, memory.

    The task is the demo's, its annotators simulated. What the folder has is found again; stopped, the same command
    goes on.

    Parameters
    ----------
    folder
        Where everything is kept: a demo folder for each seed (seed-0, …), report.html, results.json, the figures.
    config
        Settings file: the flags' settings, and each road's own in sections such as dpo and ppo.
    mini
        Every road in seconds, on a tiny model that knows nothing and without a download: a check, not a result.
    markdown
        Print the tables as Markdown.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    layers = [Layer(str(config), read_yaml(config))] if config else []
    chosen = resolve(
        CompareConfig, [*layers, Layer(FLAG, nested(settings))], base=CompareConfig.miniature() if mini else None
    )
    outcome = run_compare(chosen, folder, shlex.join(["tutelage", *sys.argv[1:]]))
    figures = {
        "rows": list(outcome.rows),
        "labels": outcome.labels,
        "report": str(outcome.report),
        "results": str(outcome.results),
    }
    return Answer(outcome.markdown() if markdown else _summary(outcome), figures)


def _summary(outcome: Outcome) -> Group:
    """The tables and where the rest is."""
    tables: list[Any] = [
        table("Roads, at the end of training", COLUMNS, [r.cells() for r in outcome.rows]),
        "",
        table("Best gold within a KL", BOUND_COLUMNS, outcome.bounds),
        "",
    ]
    if outcome.sweep:
        tables += [table("Temperature", SWEEP_COLUMNS, outcome.sweep), ""]
    return Group(*tables, f"Report: {outcome.report}")
