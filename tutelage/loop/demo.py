"""The whole loop in one command, on real text: continue the opening of a film review so that readers like it.

The task is the field's classic (Ziegler et al. 2019; the DPO paper's sentiment task). The annotators are simulated
unless you say `--annotator me`: several people with their own noise and taste around a judge fitted on one half of the
reviews. The reward model never sees the blind judges: one fitted on the other half, and VADER.

    tutelage demo
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml
from pydantic import ValidationError

from tutelage.checkpoint import write_atomically
from tutelage.config import Section
from tutelage.errors import Interrupted, TutelageError
from tutelage.feedback.simulated import Panel, default_panel
from tutelage.feedback.store import Store
from tutelage.judge.sentiment import SentimentJudge, fit_sentiment
from tutelage.learn.ppo import ppo
from tutelage.learn.reward import Ranking, RewardModel, load_reward, render, train_reward
from tutelage.learn.rollout import Rollout
from tutelage.learn.sft import sft
from tutelage.loop.demo_config import DemoConfig
from tutelage.loop.demo_rankings import Annotate, collect
from tutelage.loop.reviews import Halves, Review, fetch_reviews, halves, made_reviews
from tutelage.model import causal
from tutelage.model.batch import Example
from tutelage.model.causal import Model
from tutelage.model.download import get
from tutelage.model.heads import relink
from tutelage.records import Comparison, Prompt, content_id
from tutelage.runs import Run
from tutelage.stage import Settings, Tally

if TYPE_CHECKING:
    from tutelage.loop.demo_report import Outcome


@dataclass
class Scene:
    """Everything the demo works with."""

    config: DemoConfig
    folder: Path
    base: Model
    reviews: Halves
    labeller: SentimentJudge
    blind: SentimentJudge
    panel: Panel
    steps: list[tuple[str, str, float]] = field(default_factory=list)  # name, detail, seconds
    runs: dict[str, Run] = field(default_factory=dict)
    command: str = "tutelage demo"  # what the runs say started them

    @contextmanager
    def timed(self, name: str, detail: str = "") -> Iterator[None]:
        """Note how long a step took."""
        since = time.monotonic()
        yield
        self.steps.append((name, detail, time.monotonic() - since))

    def examples(self) -> list[tuple[Review, Example]]:
        """Short reviews of the training side as prompt and continuation, with their end token."""
        found = []
        for review in self.reviews.first:
            if review.short and len(review.words) > 5 and review.prompt.split == "train":
                example = self.base.tokenizer.example(review.prompt, review.rest, max_tokens=512)
                if len(example.tokens) <= self.config.review_tokens:
                    found.append((review, example))
        return found

    def prompts(self, split: str, count: int) -> list[Prompt]:
        """Different openings of one split. The evaluation's come from all reviews, the training's from its half."""
        source = self.reviews.first if split == "train" else self.reviews.first + self.reviews.second
        unique = {r.prompt.id: r.prompt for r in source if r.short and len(r.words) > 5 and r.prompt.split == split}
        return list(unique.values())[:count]

    def stage(
        self,
        name: str,
        config: Section,
        parents: Sequence[str],
        kind: str | None = None,
        data: Mapping[str, object] | None = None,
    ) -> Run:
        """The stage's run: the one this folder already has with the same settings, parents and data, or a new one.

        `kind` is the run's, where it is not the stage's name; `data` says what it learns from, as run.json keeps it.
        """
        kind = kind or ("reward" if name == "preference" else name)
        settings = Settings(model=self.config.model, seed=self.config.seed, **{kind: config})  # a valid --config
        journal = self.folder / "demo.json"
        known = json.loads(journal.read_text()) if journal.exists() else {}
        run = None
        if name in known and (self.folder / "runs" / known[name] / "run.json").exists():
            run = Run.open(self.folder / "runs" / known[name])
            others = any(run.facts["data"].get(key, value) != value for key, value in (data or {}).items())
            if others or run.facts["parents"] != list(parents) or not _same(run.path / "config.yaml", settings):
                run = None
        if run is None:
            run = Run.start(self.folder / "runs", kind, settings, parents=parents, command=self.command)
            run.record(data or {})
            write_atomically(journal, json.dumps(known | {name: run.id}))
        self.runs[name] = run
        return run

    def done(self, run: Run, name: str, detail: str) -> bool:
        """Whether an earlier call finished this run; if so, note the time it took then."""
        if run.facts["status"] == "done":
            self.steps.append((name, detail, run.facts["seconds"]))
        return bool(run.facts["status"] == "done")

    @contextmanager
    def working(self, run: Run, name: str, detail: str) -> Iterator[None]:
        """Close the run with the status it earned, and note its time."""
        run.hold()
        try:
            yield
        except Interrupted:
            run.finish("interrupted")
            raise Interrupted("stopped; everything is saved. The same command goes on from here.") from None
        except TutelageError:
            run.finish("failed")
            raise
        run.finish("done")
        self.steps.append((name, detail, run.facts["seconds"]))


def _same(file: Path, settings: Settings) -> bool:
    """Whether a run's settings are these; what it was too old to know counts as the default."""
    try:
        return Settings.model_validate(yaml.safe_load(file.read_text(encoding="utf-8"))) == settings
    except ValidationError:
        return False


def set_scene(config: DemoConfig, folder: Path) -> Scene:
    """Fetch model and text, and fit the two judges on different halves of the reviews."""
    since = time.monotonic()
    mini = config.model == "tiny"
    if config.model == "smollm2-135m":
        get(config.model)
    base = causal.load(config.model)
    reviews = halves(made_reviews(600) if mini else fetch_reviews())
    fetched = time.monotonic()

    def fit(side: Sequence[Review]) -> SentimentJudge:
        return fit_sentiment([r.text for r in side], [int(r.positive) for r in side], seed=0)

    labeller, blind = fit(reviews.first), fit(reviews.second)
    scene = Scene(config, folder, base, reviews, labeller, blind, default_panel(labeller.score))
    scene.steps.append(("Fetch", "the pretrained model and the reviews", fetched - since))
    scene.steps.append(("Judges", "two, each fitted on its own half of the reviews", time.monotonic() - fetched))
    return scene


def fine_tune(scene: Scene) -> Model:
    """SFT on short reviews of the training half."""
    config = scene.config.sft
    run = scene.stage("sft", config, ())
    detail = f"{config.steps} steps of {config.batch_size} reviews"
    if scene.done(run, "SFT", detail):
        model = causal.load(run.final)
        relink(model.decoder, scene.base.decoder)
        return model
    examples = [example for _, example in scene.examples()]
    with scene.working(run, "SFT", detail):
        return sft(scene.base, examples, config, run)


def label_pairs(scene: Scene) -> list[Ranking]:
    """Pairs made from the reviews' own labels: a liked film's review above a disliked one's."""
    rows = scene.examples()
    liked = [e.tokens for r, e in rows if r.positive]
    other = [e.tokens for r, e in rows if not r.positive]
    pairs = zip(liked, other, strict=False)
    return [Ranking(sequences=pair, ranks=(1, 2), target=None, strength=None) for pair in pairs]


def train_rewards(scene: Scene, policy: Model, comparisons: Sequence[Comparison]) -> RewardModel:
    """The reward model: first on pairs from human labels, then on the rankings."""
    own = [render(c, policy.tokenizer, scene.config.reward.max_tokens) for c in comparisons]
    first = None
    if scene.config.preference.steps:
        first = train_one_reward(scene, "preference", policy, label_pairs(scene), own, first)
    people = Tally()
    facts = {
        "comparisons": len(list(people.of(comparisons))),
        "annotators": people.rows(),
        "rankings": content_id(*sorted(c.id for c in comparisons))[:12],
    }
    return train_one_reward(scene, "reward", policy, own, own, first, facts)


def train_one_reward(
    scene: Scene,
    name: str,
    policy: Model,
    rankings: Sequence[Ranking],
    own: Sequence[Ranking],
    start: RewardModel | None,
    facts: Mapping[str, object] | None = None,
) -> RewardModel:
    """One stage of it. `own`, the policy's completions, set the scale; `facts` go into the run's record."""
    config = scene.config.preference if name == "preference" else scene.config.reward
    run = scene.stage(name, config, [scene.runs["sft" if start is None else "preference"].id], data=facts)
    source = "pairs from the reviews' labels" if name == "preference" else "rankings"
    title, detail = f"Reward model: {source}", f"{config.steps} steps of {config.batch_size}"
    if scene.done(run, title, detail):
        reward = load_reward(run.final)
        relink(reward.scorer.decoder, scene.base.decoder)
        return reward
    reference = [s for r in own[:64] for s in r.sequences]
    with scene.working(run, title, detail):
        return train_reward(policy, rankings, config, run, start=start, reference=reference)


def optimise(scene: Scene, policy: Model, reward: RewardModel) -> Model:
    """PPO against the reward model, with both judges watching but not speaking."""
    config = scene.config.ppo
    run = scene.stage("ppo", config, [scene.runs["sft"].id, scene.runs["reward"].id])
    detail = f"{config.steps} steps of {config.batch_size} episodes, {config.epochs} epochs"
    if scene.done(run, "PPO", detail):
        model = causal.load(run.final)
        relink(model.decoder, scene.base.decoder)
        return model
    tokenizer = policy.tokenizer
    prompts = [tokenizer.prompt(p) for p in scene.prompts("train", 10_000)]

    def watch(rollout: Rollout) -> dict[str, float]:
        texts = [tokenizer.decode(s) for s in rollout.sequences]
        return {
            "ppo/gold_labeller": float(scene.labeller.score(texts).mean()),
            "ppo/gold_unseen": float(scene.blind.score(texts).mean()),
            "ppo/liked_unseen": float((scene.blind.score(texts) > 0).mean()),
        }

    with scene.working(run, "PPO", detail):
        return ppo(policy, reward, prompts, config, run, watch=watch)


def demo(config: DemoConfig, folder: Path, annotate: Annotate | None = None) -> "Outcome":
    """Run the whole loop in the folder, or go on where it stopped; returns the figures the command prints."""
    from tutelage.loop.demo_report import conclude

    since = time.monotonic()
    config = config.seeded()
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    scene = set_scene(config, folder)
    policy = fine_tune(scene)
    with Store(str(folder / "tutelage.db")) as store:
        comparisons = collect(scene, policy, store, annotate)
    reward = train_rewards(scene, policy, comparisons)
    tuned = optimise(scene, policy, reward)
    return conclude(scene, policy, reward, tuned, comparisons, since)
