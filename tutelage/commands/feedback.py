"""People and their judgements: init, import, export, label."""

import getpass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tutelage.commands.flags import Config, Folder, Json
from tutelage.errors import DataError
from tutelage.project import Project
from tutelage.records import Split
from tutelage.terminal import Answer, Sitting, TerminalAnnotator, human, table

SHOWN_FAULTS = 20
FileFormat = Literal[
    "tutelage",
    "hh-rlhf",
    "pandalm",
    "argilla",
    "label-studio",
    "preference",
    "unpaired",
    "prompt-completion",
    "prompt-only",
    "language-modelling",
]


def init(
    folder: Path = Path(), /, *, model: str = "smollm2-135m", store: str = "tutelage.db", json: Json = False
) -> Answer:
    """Make a project folder: tutelage.yaml, an empty store, runs/.

    Parameters
    ----------
    folder
        Where; it is made if it is not there.
    model
        Hugging Face folder or name, .gguf file, smollm2-135m (after `tutelage models get`), or tiny.
    store
        Database of feedback: a SQLite file, relative to the project folder, or a postgresql:// URL.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    made = Project.init(folder, model=model, store=store).folder
    text = f"Made {made.config}, {store} and {made.runs}.\nNext: tutelage import FILE{made.flag}"
    return Answer(text, {"config": str(made.config), "store": store, "runs": str(made.runs)})


def import_(
    files: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    format: FileFormat | Literal["auto"] = "auto",
    annotator: str = "import",
    strict: Annotated[bool, Parameter(negative="")] = False,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
) -> Answer:
    """Add files of prompts, demonstrations, rankings or ratings to the store.

    Parameters
    ----------
    files
        JSON lines, plain or gzipped; Parquet; PandaLM's is one JSON array.
    format
        What the lines are; `auto` tells it from the first good one.
    annotator
        Name of whoever judged or wrote them, where the file does not say.
    strict
        Stop at the first bad line and add nothing of its file, instead of leaving it out.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    if not files:
        raise DataError("no file to import: name at least one")
    opened, who, reports = Project.open(project, config), human(annotator), []
    for path in files:
        reports.append(opened.import_file(path, format, annotator=who, strict=strict))
    rows = [(path, r.format, r.read, r.added, r.known, len(r.bad)) for path, r in zip(files, reports, strict=True)]
    bad = [line for r in reports for line in r.bad]
    made = table("", ["file", "format", "lines read", "records added", "known before", "bad lines"], rows)
    if bad:
        made.caption = "\n".join(str(line) for line in bad[:SHOWN_FAULTS])
        made.caption_justify = "left"
    totals = {
        "read": sum(r.read for r in reports),
        "added": sum(r.added for r in reports),
        "bad": [str(b) for b in bad],
    }
    return Answer(made, totals)


def export(
    file: Path,
    /,
    *,
    format: FileFormat = "tutelage",
    split: Split | None = None,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
) -> Answer:
    """Write what the store holds to a file.

    Parameters
    ----------
    file
        Where to; gzipped when it ends in .gz, Parquet when it ends in .parquet.
    format
        `tutelage` holds every record whole; the others hold what they can say.
    split
        Only prompts of this split; without it, all.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    done = Project.open(project, config).export_file(file, format, split=split)
    text = f"Wrote {done.rows:,} lines to {file}; {done.skipped:,} records cannot be said in this format."
    return Answer(text, {"file": str(file), "rows": done.rows, "skipped": done.skipped})


def label(
    *,
    annotator: str | None = None,
    source: Annotated[str | None, Parameter(name="--from")] = None,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
) -> Answer:
    """Rank sampled completions at this terminal, by number keys.

    Type places best first (`2 1 3`, ties `2=1>3`; with two completions one key is enough), `s` to skip, `u` to undo,
    `q` to quit. Every answer is saved at once; the next time goes on with what is not ranked yet.

    Parameters
    ----------
    annotator
        Your name; without it, the name you are logged in by.
    source
        The sampling run whose completions to rank; without it, the newest.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    opened, who = Project.open(project, config), human(annotator or getpass.getuser())
    with opened.store() as store:
        sitting = Sitting(TerminalAnnotator(who), store.add, store.retract)
        counts = sitting.go_through(opened.questions(who.id, source=source))
    text = "{answered} ranked, {skipped} skipped, {undone} undone, {left} left.".format(**counts)
    return Answer(
        f"{text} `tutelage label` goes on, `tutelage reward` learns from them.", {**counts, "annotator": who.name}
    )
