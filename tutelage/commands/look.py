"""Looking at what there is: report, runs (list, show, compare, lineage), models (list, get)."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from tutelage import history
from tutelage.commands.flags import Folder, Json
from tutelage.project import Project
from tutelage.terminal import Answer, number, plain, table

runs = App(name="runs", help="What was run: list, show, compare, lineage.")
models = App(name="models", help="Pretrained models: list, get.")


def report(run: str, /, *, project: Folder = Path(), json: Json = False) -> Answer:
    """Write a run's report: one HTML file with its curves, numbers, samples and settings.

    Parameters
    ----------
    run
        Id of a run, or its beginning or end.
    project
        The project folder.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    path = Project.open(project).report(run)
    return Answer(f"The report is in {path}", {"report": str(path)})


@runs.command(name="list")
def list_(kind: str | None = None, /, *, project: Folder = Path(), json: Json = False) -> Answer:
    """Every run, newest first.

    Parameters
    ----------
    kind
        Only runs of this kind: sft, reward, ppo, sample.
    project
        The project folder.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    found = Project.open(project).runs(kind)
    rows = [(r.id, r.status, r.started[:16], f"{r.seconds:.0f}", ", ".join(r.parents)) for r in found]
    return Answer(table("", ["run", "status", "started (UTC)", "seconds", "parents"], rows), {"runs": plain(found)})


@runs.command
def show(run: str, /, *, project: Folder = Path(), json: Json = False) -> Answer:
    """One run: what it is, what it learned from, its last numbers.

    Parameters
    ----------
    run
        Id of a run, or its beginning or end.
    project
        The project folder.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    found = history.find_run(Project.open(project).folder.runs, run)
    numbers = history.last_numbers(found.path)
    rows = [(key, value) for key, value in plain(found).items() if key != "data"]
    rows += [(f"data: {key}", _people(value)) for key, value in found.data.items()]
    rows += [(key, number(value)) for key, value in numbers.items()]
    return Answer(table("", ["", "value"], rows), {**plain(found), "numbers": plain(numbers)})


@runs.command
def compare(
    ids: Annotated[list[str], Parameter(negative="")], /, *, project: Folder = Path(), json: Json = False
) -> Answer:
    """Runs side by side: the settings that differ, and their last numbers.

    Parameters
    ----------
    ids
        Two or more runs.
    project
        The project folder.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    found = Project.open(project).compare(ids)
    rows = [(key, *values) for key, values in found.settings.items()]
    rows += [(key, *map(number, values)) for key, values in found.numbers.items()]
    return Answer(table("", ["", *found.ids], rows), plain(found))


@runs.command
def lineage(run: str, /, *, project: Folder = Path(), json: Json = False) -> Answer:
    """What a run came from: its parents, their data, and the people who judged it.

    Parameters
    ----------
    run
        Id of a run, or its beginning or end.
    project
        The project folder.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    tree = Project.open(project).lineage(run)
    lines = []
    for depth, node in tree.walk():
        facts = "is no longer there" if node.info is None else node.info.status
        lines.append(f"{'  ' * depth}{node.id} ({facts})")
        for key, value in (node.info.data if node.info else {}).items():
            lines.append(f"{'  ' * depth}    {key}: {_people(value)}")
    return Answer("\n".join(lines), plain(tree))


def _people(value: object) -> str:
    """A list of annotators in one line; anything else as it is."""
    if not (isinstance(value, list) and all(isinstance(row, dict) and "labels" in row for row in value)):
        return str(value)
    return ", ".join(f"{who['name']} ({who['kind']}, {who['labels']})" for who in value)


@models.command(name="list")
def list_models(*, json: Json = False) -> Answer:
    """The models that can be fetched by name, and whether they are on this machine.

    Parameters
    ----------
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    from tutelage.model.download import MODELS, model_folder

    rows = [(name, one.licence, model_folder(name).is_dir(), model_folder(name)) for name, one in MODELS.items()]
    figures = {name: {"licence": lic, "here": here, "path": str(path)} for name, lic, here, path in rows}
    shown = [(name, lic, "yes" if here else "no", path) for name, lic, here, path in rows]
    return Answer(table("", ["name", "licence", "here", "folder"], shown), {"models": figures})


@models.command
def get(name: str = "smollm2-135m", /, *, json: Json = False) -> Answer:
    """Fetch a pretrained model (93 MB for smollm2-135m), check its sums and convert it.

    Parameters
    ----------
    name
        Which; `tutelage models list` shows what there is.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    from tutelage.model.download import get as fetch

    path = fetch(name)
    return Answer(f"{name} is in {path}", {"name": name, "path": str(path)})
