"""Active selection: what is left of a batch, ordered by how much an ensemble of reward models would learn from it.

Whether that paid is told by `compare`: a reward model of each arm's labels, on the same held-out pairs.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage import history
from tutelage.errors import DataError
from tutelage.feedback.batches import Batches
from tutelage.feedback.oversight import Oversight
from tutelage.feedback.work import Arm
from tutelage.folder import ProjectFolder
from tutelage.history import RunInfo
from tutelage.learn.reward import load_reward
from tutelage.quality.choosing import Arms, compare_arms, ranking_gain
from tutelage.records import Completion, Prompt
from tutelage.stage import Settings, fitting, open_store, reward_tokens


@dataclass(frozen=True)
class Prioritised:
    """What became of a batch's queue."""

    batch: str
    scorers: tuple[str, ...]
    items: int
    """Items that still want answers."""
    moved: int
    """Of these, how many were put in order; the others keep the places that chance gave them."""
    arms: dict[Arm, tuple[int, int]]
    """Items of each arm, and how many of them are finished."""


@dataclass(frozen=True)
class Compared:
    """Reward models of the two arms, side by side."""

    arms: Arms
    labels: dict[Arm, int]
    """How many comparisons each learned from: unequal numbers say more about numbers than about arms."""


def compare(folder: ProjectFolder, flags: Mapping[str, Any], runs: Sequence[str]) -> Compared:
    """A reward run of either arm on the pairs held out, ties and what does not fit one of the models left out.

    Raises DataError unless one run is of the random arm and one of the active, and where no pair is held out
    that fits both.
    """
    settings = folder.settings(Settings, flags)
    found = [history.find_of_kind(folder.runs, "reward", name) for name in runs]
    by_arm = {history.settings_of(run.path)["reward"].get("arm", "all"): run for run in found}
    if len(found) != 2 or set(by_arm) != {"active", "random"}:
        told = ", ".join(f"{run.id} of {arm}" for arm, run in by_arm.items())
        raise DataError(
            f"one run of each arm is needed, here: {told}. Train one by `tutelage reward --reward.arm random`"
        )
    with open_store(folder, settings) as store:
        pairs = [(c, i, j) for c in store.comparisons("evaluation") for i, j in c.pairs()]
    if not pairs:
        raise DataError("no comparison is held out: label prompts of the evaluation split, or import some")
    asked = [(c.prompt, (c.completions[i], c.completions[j])) for c, i, j in pairs]
    scored = {arm: _scores(run, settings, asked) for arm, run in by_arm.items()}
    both = sorted(scored["active"].keys() & scored["random"].keys())
    if not both:
        raise DataError("no pair that is held out fits both models: their reward.max_tokens leave other ones out")
    active, random = (-np.diff(np.array([scored[arm][i] for i in both]))[:, 0] for arm in ("active", "random"))
    arms = compare_arms(active, random, [pairs[i][0].prompt.id for i in both])
    return Compared(arms, {arm: int(run.data.get("comparisons", 0)) for arm, run in by_arm.items()})


def prioritise(folder: ProjectFolder, flags: Mapping[str, Any], batch: str, scorers: Sequence[str]) -> Prioritised:
    """Order a batch's open items by `ranking_gain` over the reward runs named, `random_share` of them left to chance.

    What does not fit one of the models keeps its place.

    Raises DataError for fewer than two runs, and where nothing is left that compares completions.
    """
    if len(set(scorers)) < 2:
        raise DataError(f"{len(set(scorers))} reward runs: disagreement needs two or more, trained with other seeds")
    settings = folder.settings(Settings, flags)
    runs = [history.find_of_kind(folder.runs, "reward", name) for name in scorers]
    with open_store(folder, settings) as store:
        oversight = Oversight(store)
        left = [one for one in oversight.waiting(batch) if len(one[2]) > 1]
        if not left:
            raise DataError("nothing is left in this batch that compares completions: there is nothing to order")
        asked = [(prompt, completions) for _, prompt, completions in left]
        scored = [_scores(run, settings, asked) for run in runs]
        by_size: dict[int, list[int]] = defaultdict(list)
        for i, (_, completions) in enumerate(asked):
            if all(i in scores for scores in scored):
                by_size[len(completions)].append(i)
        priorities: dict[str, float] = {}
        for places in by_size.values():
            gain = ranking_gain(np.array([[scores[i] for i in places] for scores in scored]))
            priorities |= {left[i][0]: float(value) for i, value in zip(places, gain, strict=True)}
        moved = Batches(store).prioritise(batch, priorities)
        return Prioritised(batch, tuple(run.id for run in runs), len(left), moved, oversight.arms(batch))


def _scores(
    run: RunInfo, settings: Settings, asked: Sequence[tuple[Prompt, tuple[Completion, ...]]]
) -> dict[int, list[float]]:
    """One reward model's scores of every completion, in nats: the scale it is saved with is taken off again.

    By the place of what was asked; what does not fit the model is left out, with a warning that counts it.
    """
    reward = load_reward(run.path / "model", settings.device)
    room = reward_tokens(run, settings)

    def rendered(one: tuple[int, tuple[Prompt, tuple[Completion, ...]]]) -> tuple[int, list[tuple[int, ...]]]:
        place, (prompt, completions) = one
        read = reward.tokenizer.example
        return place, [read(prompt, c.text, max_tokens=room, finish=c.finish).tokens for c in completions]

    found = fitting(enumerate(asked), rendered)
    scores = iter((reward.score([tokens for _, rows in found for tokens in rows]) * reward.std).tolist())
    return {place: [next(scores) for _ in rows] for place, rows in found}
