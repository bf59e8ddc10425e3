"""Keeping the store safe: backup and restore."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tutelage.commands.flags import Config, Folder, Json
from tutelage.project import Project
from tutelage.terminal import Answer


def backup(
    file: Path | None = None, /, *, project: Folder = Path(), config: Config = None, json: Json = False
) -> Answer:
    """Write the whole store to a file: labels, work, people. The studio may run meanwhile.

    SQLite is copied by its online backup, PostgreSQL by pg_dump. The file holds password hashes: keep it safe.

    Parameters
    ----------
    file
        Where to; without it, a name with the time, in the project folder.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    path = Project.open(project, config).backup(file)
    size = path.stat().st_size
    text = f"Wrote {path} ({size:,} bytes). `tutelage restore {path}` brings it back."
    return Answer(text, {"file": str(path), "bytes": size})


def restore(
    file: Path,
    /,
    *,
    replace: Annotated[bool, Parameter(negative="")] = False,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
) -> Answer:
    """Bring the store to what a backup holds, and its schema up to date. Stop the studio first.

    Parameters
    ----------
    file
        What `tutelage backup` wrote.
    replace
        Let go of what the store holds now; without it, only an empty one is restored into.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    opened = Project.open(project, config)
    opened.restore(file, replace=replace)
    with opened.store() as store:
        counts = {kind: store.count(kind) for kind in ("prompts", "demonstrations", "comparisons", "ratings")}
    told = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    return Answer(f"Restored {file}: {told}.", {"file": str(file), **counts})
