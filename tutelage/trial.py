"""A finished run on trial: a reward model against held-out rankings, a policy against the one it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from tutelage import history
from tutelage.errors import DataError, RunError
from tutelage.evaluate.accuracy import RewardAccuracy, annotator_agreement, judge_reward, text_pairs
from tutelage.evaluate.arena import Match, System, compare, probability_judge
from tutelage.evaluate.health import Health, health
from tutelage.folder import ProjectFolder
from tutelage.history import RunInfo
from tutelage.learn.reward import RewardModel, load_reward, margins, render
from tutelage.records import Finish, Prompt
from tutelage.runs import Run
from tutelage.stage import Settings, fitting, open_store, reward_tokens
from tutelage.terminal import plain
from tutelage.wire import generate, model_of, prompt_tokens

TRAINED_ON = "the reward model the policy was trained against: over-optimisation does not show here"
BASELINE = 20_000  # rankings that the bag of words learns from, at most: it reads them together
UNSEEN = "a reward model the policy was not trained against"


@dataclass(frozen=True)
class Trial:
    """What an evaluation found; written to the run's eval.json."""

    run: RunInfo
    figures: dict[str, Any]


def evaluate(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    name: str,
    against: str | None = None,
    judge: str | None = None,
) -> Trial:
    """Measure a run on what it was never trained on, and write eval.json into it.

    A reward run: accuracy on held-out rankings with ceiling, baselines and calibration. A policy: blind pairwise
    comparison in both orders with the run it came from (or `against`), judged by a reward run.
    """
    run, settings = history.find_run(folder.runs, name), folder.settings(Settings, flags)
    match run.kind:
        case "reward":
            found = asdict(_reward(folder, settings, run))
        case "sft" | "ppo" | "dpo" | "group" | "raft":
            found = _policy(folder, settings, run, against=against, judge=judge)
        case _:
            raise RunError(f"{run.id} is a {run.kind} run: only runs that leave a model can be evaluated")
    figures = {"run": run.id, **plain(found)}
    Run.open(run.path).evaluate(figures)
    return Trial(run, figures)


def _reward(folder: ProjectFolder, settings: Settings, run: RunInfo) -> RewardAccuracy:
    """On the held-out rankings that fit the model, as its training cut them; annotators may agree on a tie too."""
    reward, most = load_reward(run.path / "model", settings.device), settings.evaluate.prompts
    with open_store(folder, settings) as store:
        held_out = list(islice(store.comparisons("evaluation"), most))
        training = text_pairs(islice(store.comparisons("train"), BASELINE))
    decided = [c for c in held_out if c.pairs()]
    if not decided:
        raise DataError("no held-out rankings to measure on: every fifth prompt is held out, so label more")
    room = reward_tokens(run, settings)
    found = fitting(decided, lambda c: (c, render(c, reward.tokenizer, room)))
    rankings = [ranking for _, ranking in found]
    agreement = annotator_agreement(held_out)
    return judge_reward(
        text_pairs(c for c, _ in found),
        (margins(reward, rankings) * reward.std).tolist(),  # back to nats, which probabilities are made of
        training=training,
        agreement=agreement.rate if agreement else None,
    )


def _policy(
    folder: ProjectFolder, settings: Settings, run: RunInfo, *, against: str | None, judge: str | None
) -> dict[str, Any]:
    rival = history.find_run(folder.runs, against) if against else _origin(folder, run)
    scorer, whose = _judge(folder, run, judge, settings.device)
    with open_store(folder, settings) as store:
        asked = islice(store.prompts("evaluation"), settings.evaluate.prompts)
        policy, room = model_of(folder, settings, run), settings.sampling.max_tokens
        prompts = [p for p, _ in fitting(asked, lambda p: (p, prompt_tokens(policy, p, room)))]
    if len(prompts) < 2:
        raise DataError(f"{len(prompts)} held-out prompts are too few: every fifth prompt is held out, so import more")
    systems, healths = [], []
    scores: dict[tuple[str, str], float] = {}
    for index, one in enumerate((run, rival)):
        model = policy if index == 0 else model_of(folder, settings, one)
        groups = generate(model, prompts, 1, settings.sampling, seed=settings.seed + index)
        system = System(one.id if one else settings.model, tuple(model.tokenizer.decode(g[0].tokens) for g in groups))
        finishes = [g[0].finish for g in groups]
        systems.append(system)
        healths.append(health(system, finishes=finishes))
        scores |= _scores(scorer, prompts, system.texts, finishes)
    verdict = probability_judge(lambda prompt, text: scores[prompt, text])
    (match,) = compare([p.id for p in prompts], systems[0], systems[1], {whose: verdict})
    return _figures(match, healths, TRAINED_ON if whose in run.parents else UNSEEN)


def _figures(match: Match, healths: list[Health], caution: str) -> dict[str, Any]:
    found = {key: value for key, value in asdict(match).items() if key != "verdicts"}
    return {**found, "judge_is": caution, "health": {h.name: asdict(h) for h in healths}}


def _origin(folder: ProjectFolder, run: RunInfo) -> RunInfo | None:
    """The sft run a policy came from; None is the project's own model."""
    for parent in run.parents:
        if parent.startswith("sft-") and parent != run.id:
            return history.find_run(folder.runs, parent)
    return None


def _judge(folder: ProjectFolder, run: RunInfo, name: str | None, device: str) -> tuple[RewardModel, str]:
    """The reward model named; else the newest that the run was not trained against; else the one it was."""
    if name:
        chosen = history.find_run(folder.runs, name)
    else:
        done = [r for r in history.list_runs(folder.runs, "reward") if r.status == "done"]
        if not done:
            raise RunError("a policy is judged by a reward run, and there is none: train one by `tutelage reward`")
        chosen = next((r for r in done if r.id not in run.parents), done[0])
    return load_reward(chosen.path / "model", device), chosen.id


def _scores(
    reward: RewardModel, prompts: Sequence[Prompt], texts: Sequence[str], finishes: Sequence[Finish]
) -> dict[tuple[str, str], float]:
    """The reward of each answer, by (prompt's id, text)."""
    read = reward.tokenizer
    rows = zip(prompts, texts, finishes, strict=True)
    scores = reward.score([[*read.prompt(p), *read.completion(text, finish)] for p, text, finish in rows]).tolist()
    return {(p.id, text): score for p, text, score in zip(prompts, texts, scores, strict=True)}
