"""What a road is worth and what it costs: points of its frontier on held-out prompts, and the machine's meters.

Gold is the judge that no training saw, in log-odds of "liked"; proxy is the reward model, in standard deviations of the
SFT model's samples. KL is the mean of log π/π_SFT over the texts, in nats a text.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.checkpoint import STATE, complete, write_atomically
from tutelage.evaluate.arena import Match, System, compare, score_judge, word_counts
from tutelage.evaluate.best_of_n import curve
from tutelage.judge.sentiment import vader
from tutelage.learn.reward import RewardModel
from tutelage.loop.demo import Scene
from tutelage.loop.demo_report import UNSEEN, response_logprobs
from tutelage.model.adapters import Train, branch, merge, trainable
from tutelage.model.causal import Model
from tutelage.model.decoder import Decoder
from tutelage.records import Prompt
from tutelage.runs import Run
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import Sampled, SamplingParams
from tutelage.terminal import plain
from tutelage.wire import generate

EVEN = "unseen judge, same words"


@dataclass(frozen=True)
class Point:
    """A place on a road's frontier. Means over `n` prompts, one text each."""

    at: str  # step of training, or n of best-of-n
    kl: float  # nats a text, from SFT
    gold: float
    proxy: float
    words: float | None  # None where no one text was chosen
    ended: float | None  # share of texts that ended within the limit
    n: int


@dataclass(frozen=True)
class Texts:
    """One text for each prompt, and the scores of each."""

    sampled: tuple[Sampled, ...]
    texts: tuple[str, ...]
    gold: tuple[float, ...]
    proxy: tuple[float, ...]


class Meter:
    """Seconds, processor seconds and the process's peak memory while a road trains, over all its resumptions."""

    def __init__(self, run: Run) -> None:
        self.run, self.before = run, run.facts["data"].get("cost", {})
        self.sampling = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what is within, however it ends."""
        resident, since, processor = memory("VmRSS"), time.monotonic(), time.process_time()
        reset_peak()
        try:
            yield
        finally:
            found = {
                "seconds": time.monotonic() - since,
                "sampling_seconds": self.sampling,
                "processor_seconds": time.process_time() - processor,
            }
            cost: dict[str, float | None] = {k: round(v + self.before.get(k, 0.0), 2) for k, v in found.items()}
            cost |= {"peak_gib": memory("VmHWM"), "resident_before_gib": resident}
            self.run.record({"cost": cost})

    def sampler(self, model: Model, shared: int) -> "Timed":
        """An engine for this road, timed. `shared`: layers that policy, reference and reward have in common."""
        return Timed(model.decoder, model.tokenizer.end, shared or None, self)


class Timed(Engine):
    """The engine, with a clock."""

    def __init__(self, decoder: Decoder, end: int, capture: int | None, meter: Meter) -> None:
        super().__init__(decoder, end, capture=capture)
        self.meter = meter

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Sampled]:
        """See `Sampler.generate`."""
        since = time.monotonic()
        found = super().generate(prompts, params, seed=seed, progress=progress)
        self.meter.sampling += time.monotonic() - since
        return found


def reset_peak() -> None:
    """Let the system count this process's peak memory from now on. Does nothing where it cannot."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> float | None:
    """VmRSS (resident now) or VmHWM (its peak) of this process, in GiB; None where the system does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    found = [line for line in status.read_text().splitlines() if line.startswith(field)]
    return round(int(found[0].split()[1]) / 2**20, 3) if found else None


class Bench:
    """One seed's models and held-out prompts, and what all roads are measured by."""

    def __init__(self, scene: Scene, start: Model, reward: RewardModel, prompts: Sequence[Prompt], few: int) -> None:
        """`prompts` are for the end of a road, the first `few` of them for the points before it."""
        self.scene, self.start, self.reward = scene, start, reward
        self.prompts, self.few = tuple(prompts), few
        self.params, self.seed = scene.config.ppo.sampling, 95_000 + scene.config.seed
        self.judges = {UNSEEN: score_judge(scene.blind.score, whole=True), "VADER": score_judge(vader, whole=True)}
        self.sampling = 0.0  # seconds, of what was measured last

    def asked(self) -> dict[str, Any]:
        """What every measurement depends on."""
        return {"sft": self.scene.runs["sft"].id, "reward": self.scene.runs["reward"].id, "prompts": len(self.prompts)}

    def openings(self, count: int) -> list[str]:
        """The first prompts as text."""
        return [p.messages[0].content for p in self.prompts[:count]]

    def judge(self, sampled: Sequence[Sampled], each: int = 1) -> Texts:
        """Score texts, `each` for every one of the first prompts, side by side."""
        prompts = [p for p in self.prompts[: len(sampled) // each] for _ in range(each)]
        texts = tuple(self.start.tokenizer.decode(s.tokens) for s in sampled)
        rows = [(*self.start.tokenizer.prompt(p), *s.tokens) for p, s in zip(prompts, sampled, strict=True)]
        gold = self.scene.blind.score([p.messages[0].content + t for p, t in zip(prompts, texts, strict=True)])
        return Texts(tuple(sampled), texts, tuple(gold.tolist()), tuple(self.reward.score(rows).tolist()))

    def write(
        self, model: Model, count: int, *, each: int = 1, temperature: float = 1.0, against: bool = False
    ) -> Texts:
        """What a model writes for the first prompts; `against`: what the others are compared with, drawn apart."""
        since, params = time.monotonic(), self.params.model_copy(update={"temperature": temperature})
        groups = generate(model, self.prompts[:count], each, params, seed=self.seed + (not against))
        self.sampling = time.monotonic() - since
        return self.judge([s for group in groups for s in group], each)

    def point(self, at: str, written: Texts) -> Point:
        """The place on the frontier of what was written."""
        tokens = [self.start.tokenizer.prompt(p) for p in self.prompts[: len(written.texts)]]
        reference = response_logprobs(self.start, tokens, written.sampled)
        kl = [float((s.logprobs - r).sum()) for s, r in zip(written.sampled, reference, strict=True)]
        of = shape(written)
        return Point(at, mean(kl), mean(written.gold), mean(written.proxy), of["words"], of["ended"], len(kl))

    def wins(self, written: Texts, against: Sequence[str]) -> dict[str, list[float]]:
        """By judge, each prompt's outcome against other texts: 1 won in both orders together, 0 lost, 0.5 a tie.

        EVEN is the unseen judge on both texts cut to as many words as the shorter has.
        """
        openings = self.openings(len(written.texts))
        whole = written.texts, tuple(against[: len(openings)])
        cut = tuple(zip(*map(same_words, *whole), strict=True))
        matches: list[Match] = []
        for (mine, others), judges in ((whole, self.judges), (cut, {EVEN: self.judges[UNSEEN]})):
            matches += compare(openings, System("road", mine), System("SFT", others), judges)
        return {m.judge: [_outcome(v.preference) for v in m.verdicts] for m in matches}

    def sweep(self, model: Model, temperatures: Sequence[float], against: Sequence[str]) -> dict[str, list[float]]:
        """By temperature, each prompt's outcome against other texts by the unseen judge."""
        count = len(self.prompts)
        written = {f"{t:g}": self.write(model, count, temperature=t) for t in temperatures}
        return {t: self.wins(texts, against)[UNSEEN] for t, texts in written.items()}


def same_words(one: str, other: str) -> tuple[str, str]:
    """Both texts with no more words than the shorter one has, each with the space before it."""
    mine, others = (re.findall(r"\s*\S+", text) for text in (one, other))
    least = min(len(mine), len(others))
    return "".join(mine[:least]), "".join(others[:least])


def _outcome(preference: float) -> float:
    return 0.5 if preference == 0.5 else float(preference > 0.5)


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return sum(values) / len(values)


def shape(written: Texts) -> dict[str, float]:
    """Mean words of a text, and the share of texts that ended within the limit."""
    ended = mean([float(s.finish == "stop") for s in written.sampled])
    return {"words": float(word_counts(written.texts).mean()), "ended": ended}


def best_of_points(pool: Texts, each: int) -> list[Point]:
    """Points of best-of-n from `each` samples of every prompt: every n without bias, KL by the law."""
    rows = [slice(i, i + each) for i in range(0, len(pool.texts), each)]
    found = curve([pool.proxy[r] for r in rows], [pool.gold[r] for r in rows])
    known = [(p, p.gold) for p in found if p.gold is not None]
    return [Point(f"n = {p.n}", p.kl, gold.mean, p.proxy.mean, None, None, p.proxy.n) for p, gold in known]


def best_of(pool: Texts, each: int, n: int) -> Texts:
    """Of the first n of `each` samples of every prompt, the one that scores best by the proxy."""
    starts = range(0, len(pool.texts), each)
    best = [max(range(i, i + n), key=lambda j: pool.proxy[j]) for i in starts]
    return Texts(
        tuple(pool.sampled[i] for i in best),
        tuple(pool.texts[i] for i in best),
        tuple(pool.gold[i] for i in best),
        tuple(pool.proxy[i] for i in best),
    )


def snapshots(run: Run, start: Model, train: Train) -> Iterator[tuple[int, Model]]:
    """The policy at each checkpoint of a finished run but the last step's, oldest first."""
    last = int(run.metrics()[-1]["step"])
    for folder in reversed(complete(run.path / "checkpoints")):
        step = int(folder.name)
        if step < last:
            weights = torch.load(folder / STATE, weights_only=True, map_location="cpu")["learner"]["weights"]
            decoder = branch(start.decoder, train, torch.Generator().manual_seed(0))
            with torch.no_grad():
                for name, p in trainable(decoder).items():
                    p.copy_(weights[name] if name in weights else weights[f"policy.{name}"])
            yield step, Model(merge(decoder), start.tokenizer, f"{run.id} at step {step}")


def kept(path: Path, asked: Mapping[str, Any], measure: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """What the file has when it was measured as asked now, else what is measured, left there."""
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["asked"] == plain(asked):
            return found
    made = plain({"asked": asked, **measure()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(made, indent=1, ensure_ascii=False))
    return dict(made)
