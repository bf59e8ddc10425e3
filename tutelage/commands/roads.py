"""The other roads from feedback to policy: dpo."""

from pathlib import Path
from typing import Any

from tutelage.commands.flags import Config, Folder, Json, Resume, with_settings
from tutelage.commands.train import CORE, finished
from tutelage.project import Project
from tutelage.stage import Settings
from tutelage.terminal import Answer


@with_settings(Settings, *CORE, "dpo", "sampling")
def dpo(
    *,
    project: Folder = Path(),
    config: Config = None,
    start: str | None = None,
    online: str | None = None,
    resume: Resume = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Train the model on rankings directly, without a reward model.

    Parameters
    ----------
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml. A run's config.yaml will do.
    start
        The sft run whose model to start from; without it, the newest finished one, else the project's model.
    online
        Learn from the policy's own fresh samples, as this reward run ranks them (newest: the newest finished one),
        instead of from the store's rankings.
    resume
        Go on with an interrupted run: its id, or nothing for the newest one.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    run = Project.open(project, config).dpo(settings, start=start, online=online, resume=resume)
    return finished(run, f"tutelage evaluate {run.id}, then tutelage report {run.id}")
