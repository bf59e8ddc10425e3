"""The other roads from feedback to policy, put together: direct preference optimisation, offline and online."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from tutelage import history
from tutelage.errors import ConfigError, RunError
from tutelage.feedback.formats.trl import MIDDLE
from tutelage.feedback.store import Store, Trainable
from tutelage.folder import ProjectFolder
from tutelage.history import RunInfo
from tutelage.learn.dpo import Item, dpo
from tutelage.learn.kto import Judged, chained, likings, one_by_one, opinions, rated, split
from tutelage.learn.online_dpo import Annotate, online_dpo
from tutelage.learn.preference import Preference, preference
from tutelage.learn.preference_losses import KTO
from tutelage.learn.reward import RewardModel, load_reward
from tutelage.learn.rollout import EndRule, end_scores
from tutelage.model.batch import Example, Lazy
from tutelage.model.causal import Model
from tutelage.model.heads import relink
from tutelage.records import Annotator, Comparison, Completion, Prompt, Split
from tutelage.runs import Run
from tutelage.stage import NEWEST, Stage, stage
from tutelage.wire import prompt_tokens, sampler_of, start_model, start_run, targets_of

ASKED = "asks an annotator"  # in a run's data: its comparisons come from a function
T = TypeVar("T")


def run_dpo(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    start: str | None = None,
    online: Annotate | str | None = None,
    resume: str | None = None,
) -> Run:
    """Train an sft run's model, or the project's, on the store's rankings; for kto on its ratings too.

    With `online`, on fresh comparisons of its own samples of the store's prompts, by any annotator: a function, or a
    reward run ("newest", or its id) that ranks by score. Raises RunError when a resumed run's function is missing.
    """

    def parents() -> list[RunInfo]:
        return [*_scorer(folder, online), *start_run(folder, start)]

    named = {"start": start, "online": online if isinstance(online, str) else None}
    with stage(folder, "dpo", flags, resume=resume, parents=parents, named=named) as s:
        model = start_model(s)
        s.run.record({"store": s.settings.store})
        annotate = _annotator(s, model, online)
        with s.open_store() as store:
            if annotate is None:
                held_out = list(_items(s, store, model, "evaluation"))
                dpo(model, _items(s, store, model, "train"), s.settings.dpo, s.run, evaluation=held_out)
            else:
                if s.settings.dpo.targets != "none":
                    raise ConfigError("dpo.targets is of stored comparisons, so it has no use online: set it to 'none'")
                params = s.settings.sampling

                def fits(prompt: Prompt) -> Prompt:
                    prompt_tokens(model, prompt, params.max_tokens)
                    return prompt

                prompts = s.read(store, "prompts", "train", fits, lambda prompt: prompt)
                sampler = sampler_of(model)
                online_dpo(model, prompts, annotate, s.settings.dpo, s.run, sampling=params, sampler=sampler)
    return s.run


def _scorer(folder: ProjectFolder, online: Annotate | str | None) -> list[RunInfo]:
    """The reward run that is to be asked, if one is."""
    if not isinstance(online, str):
        return []
    return [history.find_of_kind(folder.runs, "reward", None if online == NEWEST else online)]


def _annotator(s: Stage, model: Model, online: Annotate | str | None) -> Annotate | None:
    """Whom the run asks; None when it reads the store. A resumed run asks whom it asked."""
    scorer = next((p for p in s.run.facts["parents"] if p.startswith("reward-")), None)
    if scorer is not None and callable(online):
        raise RunError(f"{s.run.id} asks {scorer}: resume it without an annotator, or start a new run")
    if scorer is not None:
        reward = load_reward(s.folder.runs / scorer / "model", s.settings.device)
        relink(reward.scorer.decoder, model.decoder)
        return score_annotator(reward, scorer, s.settings.dpo.online.end)
    asked = s.run.facts["data"].get(ASKED, False)
    if asked and online is None:
        raise RunError(f"{s.run.id} asks an annotator of yours: resume it from Python, by project.dpo(online=...)")
    if s.resumed and online is not None and not asked:
        raise RunError(f"{s.run.id} began without an annotator: resume it without one, or start a new run")
    assert not isinstance(online, str)  # with one, a reward run is among the parents
    if online is not None:
        s.run.record({ASKED: True})
    return online


def score_annotator(reward: RewardModel, name: str, end: EndRule) -> Annotate:
    """A reward model as an annotator: it ranks by score after the end rule, equal scores being ties."""
    who, read = Annotator(id=f"reward-model-{name}", kind="model", name=name), reward.tokenizer

    def annotate(prompt: Prompt, completions: Sequence[Completion]) -> Comparison:
        before = read.prompt(prompt)
        found = reward.score([[*before, *read.completion(c.text, c.finish)] for c in completions])
        ended = torch.tensor([c.finish == "stop" for c in completions])
        scores = end_scores(found, ended, end).tolist()
        return Comparison(
            prompt=prompt,
            completions=tuple(completions),
            ranks=tuple(1 + sum(other > score for other in scores) for score in scores),
            shown=tuple(range(len(completions))),
            annotator=who,
        )

    return annotate


def _items(s: Stage, store: Store, model: Model, side: Split) -> Sequence[Item]:
    """One split of the store as the loss reads it, made when it is asked for."""
    config, read_text = s.settings.dpo, model.tokenizer
    most = s.settings.evaluate.measured if side == "evaluation" else None
    soft = targets_of(s, store) if side == "train" and config.targets == "annotators" else {}

    def fits(prompt: Prompt) -> Example:
        return read_text.example(prompt, "", max_tokens=config.max_tokens)

    def read(kind: Trainable, rendered: Callable[[Any], T]) -> Lazy[T]:
        return s.read(store, kind, side, fits, rendered, most=most)

    def tokens(c: Comparison) -> Preference:
        return preference(c, read_text, config.max_tokens, soft.get(c.id))

    def judged(kind: Trainable, count: Callable[[Any], int], rows: Callable[[Any], list[Judged]]) -> Lazy[Judged]:
        counts = s.kept(f"{kind}-{side}-judged", lambda: np.fromiter(read(kind, count), dtype=np.int64))
        return one_by_one(counts, read(kind, rows))

    def says(c: Comparison) -> int:
        return sum(liking != 0.5 for liking in likings(c.ranks, c.target, soft.get(c.id)))

    match config.loss:
        case KTO(source=source):
            parts = []
            if source != "ratings":
                parts.append(judged("comparisons", says, lambda c: split(tokens(c))))
            if source != "comparisons":
                rows = partial(rated, tokenizer=read_text, max_tokens=config.max_tokens)
                parts.append(judged("ratings", lambda r: int(r.score != MIDDLE), rows))
            made = opinions(chained(parts), config.seed, config.max_tokens)
            return made if most is None else made[:most]
        case _:
            return read("comparisons", tokens)
