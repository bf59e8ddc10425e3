"""More roads from feedback to policy: group, raft, best-of-n."""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from tutelage.commands.flags import Config, Folder, Json, Resume, with_settings
from tutelage.commands.train import CORE, finished
from tutelage.project import Project
from tutelage.stage import Settings
from tutelage.terminal import Answer, number, table


@with_settings(Settings, *CORE, "group", "rules", "propositions", "safety", "judge")
def group(
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
    """Train the model against a reward without a critic: RLOO, GRPO or REINFORCE.

    Parameters
    ----------
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml. A run's config.yaml will do.
    start
        The sft run whose model to start from; without it, the newest finished one, else the project's model.
    scorer
        The reward run to train against; without it, the newest finished one. Not with group.reward rules or judge.
    safety
        A second reward run, for safety: both are combined as in Llama 2.
    resume
        Go on with an interrupted run: its id, or nothing for the newest one.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    run = Project.open(project, config).group(settings, start=start, scorer=scorer, safety=safety, resume=resume)
    return finished(run, f"tutelage evaluate {run.id}, then tutelage report {run.id}")


@with_settings(Settings, *CORE, "raft", "rules", "propositions", "safety", "judge")
def raft(
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
    """Fine-tune the model on the best of its own samples, in rounds: rejection sampling.

    Parameters
    ----------
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml. A run's config.yaml will do.
    start
        The sft run whose model to start from; without it, the newest finished one, else the project's model.
    scorer
        The reward run that scores; without it, the newest finished one. Not with raft.reward rules or judge.
    safety
        A second reward run, for safety: both are combined as in Llama 2.
    resume
        Go on with an interrupted run: its id, or nothing for the newest one.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    run = Project.open(project, config).raft(settings, start=start, scorer=scorer, safety=safety, resume=resume)
    return finished(run, f"tutelage evaluate {run.id}, then tutelage report {run.id}")


@with_settings(Settings, *CORE, "evaluate", "sampling", "rules", "propositions", "safety", "judge")
def best_of_n(
    *,
    samples: Annotated[int, Parameter(validator=Number(gte=2))] = 64,
    run: str | None = None,
    scorer: str | None = None,
    safety: str | None = None,
    gold: str | None = None,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Draw the best-of-n curve of a model on held-out prompts: score against n and KL.

    Parameters
    ----------
    samples
        Completions of each prompt, N; every n up to N is estimated from them without bias.
    run
        The run whose model samples; without it, the newest finished policy, else the project's model.
    scorer
        The reward run that chooses the best, or `rules`, `judge`, or `propositions` (with the newest reward run).
        Without it, the newest finished reward run.
    safety
        A second reward run, for safety: both are combined as in Llama 2.
    gold
        Another reward run, or another of these words, that scores the chosen.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    opened = Project.open(project, config)
    made, points = opened.best_of_n(settings, run=run, scorer=scorer, safety=safety, gold=gold, samples=samples)
    rows = [(number(p.n), number(p.kl), str(p.proxy), "" if p.gold is None else str(p.gold)) for p in points]
    drawn = made.path / "curve.html"
    text = table(f"{made.id}: the curve is drawn in {drawn}", ["n", "KL, nats", "proxy", "gold"], rows)
    return Answer(text, {"run": made.id, "path": str(made.path), "curve": str(drawn), "points": list(points)})
