"""Models as annotators: judge compare, judge validate."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tutelage.commands.feedback import FileFormat
from tutelage.commands.flags import Config, Folder, Json, with_settings
from tutelage.judging import Labelling
from tutelage.project import Project
from tutelage.records import Split
from tutelage.stage import Settings
from tutelage.terminal import Answer, number, plain, table

judge = App(name="judge", help="Models as annotators: compare, validate.")
Judges = Annotated[list[str] | None, Parameter(name="--judge", negative="")]


def with_panel(settings: dict[str, Any], judges: list[str] | None) -> dict[str, Any]:
    """The settings with the judges named by `--judge`, if any are."""
    return {**settings, "judge.panel": judges} if judges else settings


@judge.command
@with_settings(Settings, "device", "seed", "judge")
def compare(
    *,
    judges: Judges = None,
    source: Annotated[str | None, Parameter(name="--from")] = None,
    file: Path | None = None,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Let AI judges label sampled pairs, each in both orders, with soft labels.

    Every two completions of a question are a pair. What was judged is kept whatever happens: the same command goes on,
    and no judge is asked anything twice.

    Parameters
    ----------
    judges
        A model by name or folder, or an OpenAI-compatible endpoint as URL#model; several times for a panel.
    source
        The sampling run whose completions to judge; without it, the newest.
    file
        A file of questions, as sampling runs leave them, in place of a sampling run.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    done = Project.open(project, config).judge_compare(with_panel(settings, judges), source=source, file=file)
    return labelled(done, "tutelage judge validate, tutelage reward")


def labelled(done: Labelling, following: str) -> Answer:
    """What came of labelling, and which commands follow."""
    rows = [
        ("pairs judged", done.labelled),
        ("pairs not judged", done.asked - done.labelled),
        ("pairs labelled before", done.known),
        ("both orders agree", done.consistency),
        ("worth of standing first", done.position_bias),
        *((f"not judged: {reason}", f"{count} orders") for reason, count in done.not_judged.items()),
        *bill_rows(done.bill),
    ]
    text = table(f"{done.run.id}\nNext: {following}", ["", "value"], rows)
    figures = {key: value for key, value in vars(done).items() if key != "run"}
    return Answer(text, {"run": done.run.id, "path": str(done.run.path), **plain(figures)})


@judge.command
@with_settings(Settings, "device", "seed", "judge")
def validate(
    *,
    judges: Judges = None,
    file: Path | None = None,
    format: FileFormat | Literal["auto"] = "auto",
    pairs: Annotated[int, Parameter(validator=Number(gte=2))] = 200,
    split: Split | None = None,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Measure AI judges on pairs that people have decided, before their labels are learned from.

    Agreement stands beside what another person reaches and what two trivial rules reach. Nothing is added to the store.

    Parameters
    ----------
    judges
        A model by name or folder, or an OpenAI-compatible endpoint as URL#model; several times for a panel.
    file
        A file of labelled pairs that `tutelage import` reads; without it, the store's labels.
    format
        What the file's lines are; `auto` tells it from the first good one.
    pairs
        Most pairs asked, the same ones every time.
    split
        Only prompts of this split; without it, all.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    chosen = with_panel(settings, judges)
    opened = Project.open(project, config)
    done = opened.judge_validate(chosen, file=file, format=format, pairs=pairs, split=split)
    names = [name for name in vars(done.figures[0]) if name not in ("judge", "not_judged")]
    rows: list[tuple[Any, ...]] = [
        (name.replace("_", " "), *(_shown(vars(one)[name]) for one in done.figures)) for name in names
    ]
    rows += [(f"not judged, {one.judge}: {reason}", n) for one in done.figures for reason, n in one.not_judged.items()]
    rows += bill_rows(done.bill)
    text = table(done.run.id, ["figure", *(one.judge for one in done.figures)], rows)
    return Answer(text, {"run": done.run.id, "path": str(done.run.path), "figures": plain(done.figures)})


def _shown(value: Any) -> str | None:
    return None if value is None else number(value)


def bill_rows(bill: Any) -> list[tuple[str, str]]:
    """What judges have cost so far, in this project."""
    return [
        (f"so far, {one.judge}", f"{one.calls:,} calls, {one.read:,} + {one.written:,} tokens, money {one.money:.4g}")
        for one in bill
    ]
