"""Prompts into completions that wait to be ranked."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from tutelage.commands.flags import Config, Folder, Json, with_settings
from tutelage.project import Project
from tutelage.stage import Settings
from tutelage.terminal import Answer


@with_settings(Settings, "model", "store", "device", "seed", "sampling")
def sample(
    *,
    prompts: Annotated[int, Parameter(validator=Number(gte=1))] = 100,
    completions: Annotated[int, Parameter(validator=Number(gte=2, lte=9))] = 4,
    run: str | None = None,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Sample completions of the store's prompts, for people to rank.

    Parameters
    ----------
    prompts
        How many prompts of the training split; those that nobody has ranked come first.
    completions
        Completions of each, 2 to 9.
    run
        The sft, ppo or dpo run whose model samples; without it, the newest finished one, else the project's model.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    opened = Project.open(project, config)
    made, questions = opened.sample(settings, model=run, prompts=prompts, completions=completions)
    text = f"{made.id}: {questions} questions to rank.\nNext: tutelage label, tutelage studio"
    return Answer(text, {"run": made.id, "path": str(made.path), "questions": questions})
