"""Feedback into weights: sft, reward, ppo, evaluate."""

from pathlib import Path
from typing import Any

from tutelage.commands.flags import Config, Folder, Json, Resume, with_settings
from tutelage.history import last_numbers
from tutelage.project import Project
from tutelage.runs import Run
from tutelage.settings import flat
from tutelage.stage import Settings
from tutelage.terminal import Answer, number, table

CORE = ("model", "store", "device", "seed")


def finished(run: Run, next_step: str) -> Answer:
    """A finished run: its last numbers, where it lies, what to do next."""
    numbers = last_numbers(run.path)
    rows = [(name, number(value)) for name, value in numbers.items()]
    made = table(f"{run.id} is done. Its model is in {run.final}\nNext: {next_step}", ["metric", "last value"], rows)
    return Answer(made, {"run": run.id, "path": str(run.path), "seconds": run.facts["seconds"], "metrics": numbers})


@with_settings(Settings, *CORE, "sft")
def sft(
    *,
    project: Folder = Path(),
    config: Config = None,
    resume: Resume = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Fine-tune the model on the demonstrations in the store.

    Parameters
    ----------
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml. A run's config.yaml will do.
    resume
        Go on with an interrupted run: its id, or nothing for the newest one.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    run = Project.open(project, config).sft(settings, resume=resume)
    return finished(run, "tutelage sample, then tutelage label, then tutelage reward")


@with_settings(Settings, *CORE, "reward")
def reward(
    *,
    project: Folder = Path(),
    config: Config = None,
    start: str | None = None,
    resume: Resume = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Train a reward model on the rankings in the store.

    Parameters
    ----------
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml. A run's config.yaml will do.
    start
        The sft run whose model to start from; without it, the newest finished one, else the project's model.
    resume
        Go on with an interrupted run: its id, or nothing for the newest one.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    run = Project.open(project, config).reward(settings, start=start, resume=resume)
    return finished(run, f"tutelage evaluate {run.id}, then tutelage ppo")


@with_settings(Settings, *CORE, "ppo", "rules", "propositions", "safety", "judge")
def ppo(
    *,
    project: Folder = Path(),
    config: Config = None,
    start: str | None = None,
    scorer: str | None = None,
    safety: str | None = None,
    resume: Resume = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Train the model against a reward model, with a KL penalty.

    Parameters
    ----------
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml. A run's config.yaml will do.
    start
        The sft run whose model to start from; without it, the newest finished one, else the project's model.
    scorer
        The reward run to train against; without it, the newest finished one. Not with ppo.reward rules or judge.
    safety
        A second reward run, for safety: both are combined as in Llama 2.
    resume
        Go on with an interrupted run: its id, or nothing for the newest one.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    run = Project.open(project, config).ppo(settings, start=start, scorer=scorer, safety=safety, resume=resume)
    return finished(run, f"tutelage evaluate {run.id}, then tutelage report {run.id}")


@with_settings(Settings, *CORE, "evaluate", "sampling")
def evaluate(
    run: str,
    /,
    *,
    project: Folder = Path(),
    config: Config = None,
    against: str | None = None,
    judge: str | None = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Measure a run on what it was never trained on.

    A reward run: accuracy on held-out rankings beside its baselines, and calibration. A policy: blind
    comparison, in both orders, with the run it came from.

    Parameters
    ----------
    run
        Id of a reward run, or of any that leaves a policy, or its beginning or end.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    against
        The run to compare a policy with; without it, the sft run it came from, or the project's model.
    judge
        The reward run that judges a policy; without it, the newest one that the policy was not trained against.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    found = Project.open(project, config).evaluate(run, settings, against=against, judge=judge)
    rows = [(name, number(value)) for name, value in flat(found.figures) if not isinstance(value, list)]
    return Answer(table("", ["figure", "value"], rows), found.figures)
