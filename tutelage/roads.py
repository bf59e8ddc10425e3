"""The other roads from feedback to policy, put together: direct preference optimisation, offline and online."""

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage import history
from tutelage.errors import RunError
from tutelage.feedback.store import Store
from tutelage.folder import ProjectFolder
from tutelage.history import RunInfo
from tutelage.learn.dpo import Item, dpo
from tutelage.learn.kto import Judged, opinions, rated, split
from tutelage.learn.online_dpo import Annotate, online_dpo
from tutelage.learn.preference import Preference, preference
from tutelage.learn.preference_losses import KTO
from tutelage.learn.reward import RewardModel, load_reward
from tutelage.model.batch import Example
from tutelage.model.causal import Model
from tutelage.model.heads import relink
from tutelage.records import Annotator, Comparison, Completion, Prompt, Rating, Split
from tutelage.runs import Run
from tutelage.stage import NEWEST, Stage, fitting, stage
from tutelage.wire import prompt_tokens, sampler_of, start_model, start_run

ASKED = "asks an annotator"  # in a run's data: its comparisons come from a function


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

    with stage(folder, "dpo", flags, resume=resume, parents=parents) as s:
        model = start_model(s)
        s.run.record({"store": s.settings.store})
        annotate = _annotator(s, model, online)
        with s.open_store() as store:
            if annotate is None:
                held_out = list(_items(s, store, model, "evaluation"))
                dpo(model, _items(s, store, model, "train"), s.settings.dpo, s.run, evaluation=held_out)
            else:
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
    if scorer is not None:
        reward = load_reward(s.folder.runs / scorer / "model", s.settings.device)
        relink(reward.scorer.decoder, model.decoder)
        return score_annotator(reward, scorer)
    asked = s.run.facts["data"].get(ASKED, False)
    if asked and online is None:
        raise RunError(f"{s.run.id} asks an annotator of yours: resume it from Python, by project.dpo(online=...)")
    assert not isinstance(online, str)
    if online is not None:
        s.run.record({ASKED: True})
    return online


def score_annotator(reward: RewardModel, name: str) -> Annotate:
    """A reward model as an annotator: it ranks by score, equal scores being ties."""
    who, read = Annotator(id=f"reward-model-{name}", kind="model", name=name), reward.tokenizer

    def annotate(prompt: Prompt, completions: Sequence[Completion]) -> Comparison:
        before = read.prompt(prompt)
        scores = reward.score([[*before, *read.completion(c.text, c.finish)] for c in completions]).tolist()
        return Comparison(
            prompt=prompt,
            completions=tuple(completions),
            ranks=tuple(1 + sum(other > score for other in scores) for score in scores),
            shown=tuple(range(len(completions))),
            annotator=who,
        )

    return annotate


def _items(s: Stage, store: Store, model: Model, side: Split) -> Sequence[Item]:
    """One split of the store as the loss reads it."""
    config = s.settings.dpo
    most = s.settings.evaluate.measured if side == "evaluation" else None

    def fits(prompt: Prompt) -> Example:
        return model.tokenizer.example(prompt, "", max_tokens=config.max_tokens)

    def tokens(c: Comparison) -> Preference:
        return preference(c, model.tokenizer, config.max_tokens)

    def compared() -> Sequence[Preference]:
        return s.read(store, "comparisons", side, fits, tokens, most=most)

    match config.loss:
        case KTO() as kto:
            judged: list[Judged] = []
            if kto.source != "ratings":
                judged += [one for p in compared() for one in split(p)]
            if kto.source != "comparisons":
                judged += _rated(s, store, model, side)
            return opinions(judged, config.seed, config.max_tokens)[:most]
        case _:
            return compared()


def _rated(s: Stage, store: Store, model: Model, side: Split) -> list[Judged]:
    """The ratings of one split that say something."""

    def tokens(rating: Rating) -> list[Judged]:
        return rated(rating, model.tokenizer, s.settings.dpo.max_tokens)

    total = store.count("ratings", side)
    name = "ratings" if side == "train" else "ratings held out"
    return [one for some in fitting(s.take(name, total, store.ratings(side)), tokens) for one in some]
