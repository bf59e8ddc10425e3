"""Constitutional AI: constitution show, revise, compare, report."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tutelage.commands.flags import Config, Folder, Json, with_settings
from tutelage.commands.judge import Judges, bill_rows, labelled, with_panel
from tutelage.constitutional import RoundFigures
from tutelage.judge.constitution import ConstitutionConfig, read_constitution
from tutelage.project import Project
from tutelage.stage import Settings
from tutelage.terminal import Answer, plain, table

constitution = App(name="constitution", help="Constitutional AI: show, revise, compare, report.")


@constitution.command
def show(name: str = ConstitutionConfig().file, /, *, json: Json = False) -> Answer:
    """The principles of a constitution; a file of your own is checked.

    Parameters
    ----------
    name
        en, zh, or a YAML file of your own.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    found = read_constitution(name)
    rows = [(one.id, one.tag, one.comparison) for one in found.principles]
    text = table(f"{found.version}, {len(rows)} principles", ["id", "tag", "comparison"], rows)
    return Answer(text, {"version": found.version, **found.model_dump()})


@constitution.command
@with_settings(Settings, "model", "device", "seed", "sampling", "judge", "constitution")
def revise(
    *,
    judges: Judges = None,
    run: str | None = None,
    prompts: Annotated[int, Parameter(validator=Number(gte=1))] = 100,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Sample answers, let a critic revise them by principles, and store the revisions as demonstrations for SFT.

    Every round draws a principle, asks what is wrong with the answer by it, and asks for a better one. What was written
    is kept whatever happens: the same command goes on, and nothing is asked twice.

    Parameters
    ----------
    judges
        The critic: a model by name or folder, or an OpenAI-compatible endpoint as URL#model.
    run
        The run whose model answers first; without it, the newest policy, else the project's model.
    prompts
        Most training prompts of the store that are answered.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    opened = Project.open(project, config)
    done = opened.constitution_revise(with_panel(settings, judges), run=run, prompts=prompts)
    rows: list[tuple[Any, ...]] = [
        ("answers", done.answers),
        ("revised", done.revised),
        ("demonstrations added", done.demonstrations),
        *((f"not revised: {reason}", count) for reason, count in done.not_revised.items()),
        *_round_rows(done.rounds[:1] + done.rounds[-1:]),
        *((f"drawn: {name}", count) for name, count in done.principles.items()),
        *bill_rows(done.bill),
    ]
    text = table(f"{done.run.id}\nNext: tutelage constitution report, tutelage sft", ["", "value"], rows)
    figures = {key: value for key, value in vars(done).items() if key != "run"}
    return Answer(text, {"run": done.run.id, "path": str(done.run.path), **plain(figures)})


@constitution.command
@with_settings(Settings, "device", "seed", "judge", "constitution")
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
    """Let AI judges label sampled pairs by several principles each, in both orders, with the mean as soft label.

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
    opened = Project.open(project, config)
    done = opened.constitution_compare(with_panel(settings, judges), source=source, file=file)
    return labelled(done, "tutelage reward")


@constitution.command
def report(run: str | None = None, /, *, project: Folder = Path(), json: Json = False) -> Answer:
    """How evasive the texts of a revising or sampling run are: stock phrases and evasive answers, with intervals.

    Parameters
    ----------
    run
        Id of a run, or its beginning or end; without it, the newest revising run.
    project
        The project folder.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    found, rounds = Project.open(project).constitution_report(run)
    phrases = [(f"“{phrase.text}”", f"{phrase.prompts} prompts") for phrase in rounds[-1].evasion.phrases]
    text = table(found.id, ["", "value"], [*_round_rows(rounds), *phrases])
    return Answer(text, {"run": found.id, "rounds": plain(rounds)})


def _round_rows(rounds: tuple[RoundFigures, ...]) -> list[tuple[Any, ...]]:
    """Figures of each round, one below the other."""
    rows: list[tuple[Any, ...]] = []
    for one in rounds:
        rows += [
            (f"round {one.round}: words", one.words),
            (f"round {one.round}: changed", one.changed),
            (f"round {one.round}: carry a stock phrase", one.evasion.boilerplate),
            (f"round {one.round}: decline", one.evasion.declining),
            (f"round {one.round}: evade", one.evasion.evasive),
        ]
    return rows
