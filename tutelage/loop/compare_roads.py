"""Every road from the same labels: SFT on preferred answers, best-of-n, RAFT, DPO, online DPO, KTO, RLOO, GRPO, PPO.

The task, the rankings and the judges are the demo's. A seed has a demo folder of its own, `seed-0` and so on: the SFT
model, rankings and reward models that a demo left there are found again, and so is every road that was taken before.

    tutelage compare-roads --seeds 0,1,2
"""

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tutelage.errors import Interrupted
from tutelage.feedback.store import Store
from tutelage.folder import make_folder
from tutelage.learn.best_of_n import RaftConfig, raft
from tutelage.learn.dpo import DPOConfig, dpo
from tutelage.learn.group import GroupConfig, group
from tutelage.learn.kto import opinions, split
from tutelage.learn.online_dpo import online_dpo
from tutelage.learn.ppo import PPOConfig, ppo
from tutelage.learn.preference import preference
from tutelage.learn.preference_losses import KTO
from tutelage.learn.reward import RewardModel
from tutelage.learn.sft import SFTConfig, sft
from tutelage.loop.compare_roads_config import CompareConfig, Road, roads, work
from tutelage.loop.compare_roads_measure import Bench, Meter, best_of, best_of_points, kept, shape, snapshots
from tutelage.loop.compare_roads_report import Outcome, conclude
from tutelage.loop.demo import Scene, fine_tune, set_scene, train_rewards
from tutelage.loop.demo_rankings import collect
from tutelage.model import causal
from tutelage.model.adapters import Top, Train
from tutelage.model.batch import Example
from tutelage.model.causal import Model
from tutelage.model.heads import common_layers, relink
from tutelage.progress import console
from tutelage.records import Comparison, content_id
from tutelage.roads import score_annotator
from tutelage.runs import Run

KEEP = 1000  # checkpoints: all, until the points of the frontier are measured
SWEPT = ("sft", "dpo", "ppo")


@dataclass(frozen=True)
class Start:
    """Where all roads of one seed begin."""

    scene: Scene
    policy: Model
    reward: RewardModel
    comparisons: tuple[Comparison, ...]

    @property
    def labels(self) -> dict[str, Any]:
        """How many rankings there are, of how many completions, and which they are."""
        ids = sorted(c.id for c in self.comparisons)
        ranked = sum(len(c.completions) for c in self.comparisons)
        return {"rankings": len(ids), "completions": ranked, "hash": content_id(*ids)[:12]}

    def sequences(self) -> list[list[int]]:
        """Openings of the training side as tokens."""
        return [self.policy.tokenizer.prompt(p) for p in self.scene.prompts("train", 10_000)]

    def shared(self, train: Train) -> int:
        """Layers that a policy so trained has in common with its reference and the reward model."""
        layers = self.policy.decoder.config.num_layers
        below = layers - train.layers if isinstance(train, Top) else 0
        return min(below, common_layers(self.policy.decoder, self.reward.scorer.decoder))


def preferred(start: Start, config: SFTConfig) -> list[Example]:
    """The answer that each ranking puts first."""
    found = []
    for c in start.comparisons:
        best = c.completions[c.ranks.index(min(c.ranks))]
        example = start.policy.tokenizer.example
        found.append(example(c.prompt, best.text, max_tokens=config.max_tokens, finish=best.finish))
    return found


def take(start: Start, road: Road) -> Run:
    """Train by this road, or find the run that did."""
    scene, policy, reward = start.scene, start.policy, start.reward
    parents = [scene.runs["sft"].id, *([scene.runs["reward"].id] if road.by_reward else [])]
    run = scene.stage(f"road {road.name}", road.config, parents, road.kind, {"labels": start.labels})
    if run.facts["status"] == "done":
        return run
    run.keep = KEEP
    meter, shared = Meter(run), start.shared(road.config.train)
    with scene.working(run, road.name, ""), meter.running():
        match road.config:
            case SFTConfig() as c:
                sft(policy, preferred(start, c), c, run)
            case DPOConfig() as c if road.by_reward:
                judge = score_annotator(reward, scene.runs["reward"].id, c.online.end)
                asked, sampler = scene.prompts("train", 10_000), meter.sampler(policy, shared)
                online_dpo(policy, asked, judge, c, run, sampling=scene.config.ppo.sampling, sampler=sampler)
            case DPOConfig() as c:
                rankings = [preference(one, policy.tokenizer, c.max_tokens) for one in start.comparisons]
                if isinstance(c.loss, KTO):
                    judged = [one for ranking in rankings for one in split(ranking)]
                    dpo(policy, opinions(judged, c.seed, c.max_tokens), c, run)
                else:
                    dpo(policy, rankings, c, run)
            case RaftConfig() as c:
                raft(policy, reward, start.sequences(), c, run, sampler=meter.sampler(policy, shared))
            case GroupConfig() as c:
                group(policy, reward, start.sequences(), c, run, sampler=meter.sampler(policy, shared))
            case PPOConfig() as c:
                ppo(policy, reward, start.sequences(), c, run, sampler=meter.sampler(policy, shared))
    return run


def measure_road(
    start: Start, bench: Bench, config: CompareConfig, road: Road, run: Run, sft_texts: Sequence[str]
) -> Any:
    """A road's frontier, its texts at the end, and what it cost."""

    def measure() -> dict[str, Any]:
        points = []
        if not (run.path / "checkpoints").exists():
            warnings.warn(f"{road.name}: only its end is measured again, the points before it are gone", stacklevel=2)
        for step, model in snapshots(run, start.policy, road.config.train):
            points.append(bench.point(str(step), bench.write(model, bench.few)))
        end = bench.write(result(run, start), len(bench.prompts))
        logged = run.metrics()
        counts = {"completions": road.sampled(len(logged)), "updates": road.updates(len(logged))}
        points.append(bench.point(str(int(logged[-1]["step"])), end))
        return {
            "points": [asdict(p) for p in points],
            "wins": bench.wins(end, sft_texts),
            **shape(end),
            "texts": end.texts,
            "labels": run.facts["data"]["labels"],
            "cost": run.facts["data"]["cost"] | counts,
        }

    asked = {**bench.asked(), "run": run.id, "along": bench.few}
    path = start.scene.folder / "roads" / f"{road.name.replace(' ', '-')}.json"
    found = kept(path, asked, measure)
    found["sweep"] = measure_sweep(start, bench, config, road.name, run, sft_texts)
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)  # the run is done and its points are measured
    return found


def result(run: Run, start: Start) -> Model:
    """What a finished run left."""
    if run.id == start.scene.runs["sft"].id:
        return start.policy
    model = causal.load(run.final)
    relink(model.decoder, start.scene.base.decoder)
    return model


def measure_sweep(
    start: Start, bench: Bench, config: CompareConfig, name: str, run: Run, sft_texts: Sequence[str]
) -> dict[str, Any]:
    """By temperature, each prompt's outcome against SFT at 1; empty for roads that are not swept."""
    if name not in SWEPT or not config.temperatures:
        return {}
    asked = {**bench.asked(), "run": run.id, "temperatures": config.temperatures}

    def measure() -> dict[str, Any]:
        return {"wins": bench.sweep(result(run, start), config.temperatures, sft_texts)}

    found: dict[str, Any] = kept(start.scene.folder / "roads" / f"{name}-sweep.json", asked, measure)["wins"]
    return found


def measure_start(start: Start, bench: Bench, config: CompareConfig) -> Any:
    """SFT itself, where every frontier begins."""
    sft_run = start.scene.runs["sft"]

    def measure() -> dict[str, Any]:
        written = bench.write(start.policy, len(bench.prompts), against=True)
        return {
            "points": [asdict(bench.point("0", written))],
            **shape(written),
            "texts": written.texts,
            "labels": start.labels,
            "cost": {"seconds": sft_run.facts["seconds"]},
        }

    found = kept(start.scene.folder / "roads" / "sft.json", bench.asked(), measure)
    found["sweep"] = measure_sweep(start, bench, config, "sft", sft_run, found["texts"])
    return found


def measure_best_of(start: Start, bench: Bench, config: CompareConfig, sft_texts: Sequence[str]) -> Any:
    """Best-of-n: the whole curve from one pool of samples, and each n asked for against SFT."""
    each = max(config.best_of)

    def measure() -> dict[str, Any]:
        pool = bench.write(start.policy, len(bench.prompts), each=each)
        seconds = bench.sampling / len(pool.texts)
        rows = {n: best_of(pool, each, n) for n in config.best_of}
        return {
            "points": [asdict(p) for p in best_of_points(pool, each)],
            "each": {str(n): {"wins": bench.wins(r, sft_texts), "texts": r.texts, **shape(r)} for n, r in rows.items()},
            "labels": start.labels,
            "cost": {"seconds_a_completion": round(seconds, 4)},
        }

    asked = {**bench.asked(), "n": config.best_of}
    return kept(start.scene.folder / "roads" / "best-of-n.json", asked, measure)


def foretell(config: CompareConfig, scene: Scene) -> None:
    """Say about how long this seed will take where nothing of it is there, from how long its SFT took."""
    facts, of = scene.runs["sft"].facts, scene.config.sft
    seconds = work(config, scene.config.seed) * facts["seconds"] / (of.steps * of.batch_size)
    console.print(f"seed {scene.config.seed}: about {seconds / 60:.0f} minutes when nothing is found", highlight=False)


def one_seed(config: CompareConfig, scene: Scene) -> dict[str, Any]:
    """All that one seed has to say, by road."""
    policy = fine_tune(scene)
    with Store(str(scene.folder / "tutelage.db")) as store:
        comparisons = collect(scene, policy, store, None)
    start = Start(scene, policy, train_rewards(scene, policy, comparisons), tuple(comparisons))
    asked = scene.prompts("evaluation", 100_000)
    first = scene.config.seed * config.prompts % max(1, len(asked) - config.prompts)
    bench = Bench(scene, policy, start.reward, asked[first : first + config.prompts], config.prompts_along)
    found: dict[str, Any] = {"sft": measure_start(start, bench, config)}
    sft_texts = found["sft"]["texts"]
    chosen = list(roads(config, scene.config.seed))
    foretell(config, scene)
    if "best-of-n" in config.roads:
        found["best-of-n"] = measure_best_of(start, bench, config, sft_texts)
    for place, road in enumerate(chosen, 1):
        console.print(f"seed {scene.config.seed}, road {place} of {len(chosen)}: {road.name}", highlight=False)
        run = take(start, road)
        found[road.name] = measure_road(start, bench, config, road, run, sft_texts)
    return found | {"openings": bench.openings(len(bench.prompts)), "prompts": [p.id for p in bench.prompts]}


def compare_roads(config: CompareConfig, folder: Path, command: str) -> Outcome:
    """Take and measure every road for every seed, and leave report.html, results.json and the frontier's figures.

    Raises Interrupted, with the command that goes on, when the user asked to stop.
    """
    found: dict[int, dict[str, Any]] = {}
    scene: Scene | None = None
    try:
        for seed in config.seeds:
            demo = config.demo.model_copy(update={"seed": seed}).seeded()
            home = folder / f"seed-{seed}"
            make_folder(home)
            torch.manual_seed(seed)
            if scene is None:
                scene = set_scene(demo, home)
            scene = replace(scene, config=demo, folder=home, steps=[], runs={}, command=command)
            found[seed] = one_seed(config, scene)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(f"stopped; what is done is kept. Go on with: {command}") from None
    return conclude(config, folder, found, command)
