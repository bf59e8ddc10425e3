"""How the demo ends: a blind evaluation on openings nobody trained on, and one page that shows all of it."""

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage import __version__
from tutelage.evaluate.accuracy import RewardAccuracy, agreement, ceiling, judge_reward, text_pairs
from tutelage.evaluate.arena import Match, System, compare, score_judge, word_counts
from tutelage.evaluate.figures import Chart, Line
from tutelage.evaluate.health import Health, health
from tutelage.evaluate.report import Ancestor, Answer, Headline, Report, Sample, Step, write_report
from tutelage.evaluate.statistics import Mean, Rate, mean
from tutelage.judge.sentiment import vader
from tutelage.learn.reward import RewardModel, margins, render
from tutelage.learn.rollout import response_batch
from tutelage.loop.demo import Scene
from tutelage.loop.demo_rankings import completions, panel_ranks
from tutelage.model.batch import cut
from tutelage.model.causal import Model
from tutelage.model.heads import Policy
from tutelage.records import Comparison, Prompt
from tutelage.sample.sampler import Sampled
from tutelage.wire import generate

UNSEEN = "unseen judge"
SIMULATED = (
    "The annotators of this demo are simulated: five made-up people with their own noise and taste around a judge "
    "fitted on half of the reviews. To rank in their place, run: tutelage demo --annotator me"
)
BY_PERSON = (
    "A person at the terminal made the rankings that trained the reward model. The held-out rankings that measure it "
    "below are simulated."
)


@dataclass(frozen=True)
class Outcome:
    """The figures of a demo."""

    win_rate: Match  # PPO against SFT by the unseen fitted judge
    kl: float  # nats per response, on the evaluation's prompts
    seconds: float
    report: Path
    matches: tuple[Match, ...]
    health: tuple[Health, ...]
    reward: RewardAccuracy
    numbers: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        rate = asdict(self.win_rate.win_rate) | {"judge": self.win_rate.judge}
        return {"win_rate": rate, "kl": self.kl, "seconds": self.seconds, "report": str(self.report)}


@dataclass(frozen=True)
class Written:
    """What one system wrote for the evaluation's prompts."""

    name: str
    sampled: tuple[Sampled, ...]
    texts: tuple[str, ...]
    rewards: tuple[float, ...]


@torch.no_grad()
def response_logprobs(model: Model, prompts: Sequence[Sequence[int]], sampled: Sequence[Sampled]) -> list[torch.Tensor]:
    """Log-probabilities of each response's tokens under a model, in nats, one tensor (n,) for each response."""
    policy, found = Policy(model.decoder), []
    rows = [(*p, *s.tokens) for p, s in zip(prompts, sampled, strict=True)]
    for part in cut([len(r) for r in rows], 4096):
        batch = response_batch([rows[i] for i in part], [len(prompts[i]) for i in part])
        found += policy(batch).logprob.split([len(sampled[i].tokens) for i in part])
    return found


def perplexity(base: Model, prompts: Sequence[Sequence[int]], sampled: Sequence[Sampled], end: int) -> float:
    """Of the responses under the base model, per token, end tokens left out: the base was never told of this task."""
    total, count = 0.0, 0
    for logprob, s in zip(response_logprobs(base, prompts, sampled), sampled, strict=True):
        words = torch.tensor([t != end for t in s.tokens])
        total, count = total - float(logprob[words].sum()), count + int(words.sum())
    return math.exp(total / max(1, count))


def write(scene: Scene, policy: Model, tuned: Model, reward: RewardModel, prompts: list[Prompt]) -> dict[str, Written]:
    """SFT, best-of-K at the same reward model, and PPO, one text each for every prompt."""
    tokens = [policy.tokenizer.prompt(p) for p in prompts]
    k, seed = scene.config.completions, 90_000 + scene.config.seed
    groups = generate(policy, prompts, k, scene.config.ppo.sampling, seed=seed)
    pooled = [s for group in groups for s in group]
    scores = reward.score([(*tokens[i // k], *s.tokens) for i, s in enumerate(pooled)]).view(-1, k)
    best = scores.argmax(1).tolist()
    trained = [group[0] for group in generate(tuned, prompts, 1, scene.config.ppo.sampling, seed=seed + 1)]
    trained_scores = reward.score([(*t, *s.tokens) for t, s in zip(tokens, trained, strict=True)])

    def system(name: str, sampled: Sequence[Sampled], rewards: Sequence[float]) -> Written:
        texts = tuple(policy.tokenizer.decode(s.tokens) for s in sampled)
        return Written(name, tuple(sampled), texts, tuple(rewards))

    return {
        "SFT": system("SFT", [g[0] for g in groups], scores[:, 0].tolist()),
        "best": system(f"best of {k}", [g[b] for g, b in zip(groups, best, strict=True)], scores.amax(1).tolist()),
        "PPO": system("PPO", trained, trained_scores.tolist()),
        "pool": system("pool", pooled, scores.flatten().tolist()),
    }


def reward_accuracy(
    scene: Scene, policy: Model, reward: RewardModel, prompts: list[Prompt], pool: Written, training: list[Comparison]
) -> RewardAccuracy:
    """Against the panel's rankings of completions of prompts that were never trained on."""
    k = scene.config.completions
    held: list[Comparison] = []
    for i, prompt in enumerate(prompts[: max(16, len(prompts) // 2)]):
        texts = completions(scene, policy, pool.sampled[i * k : (i + 1) * k])
        held.append(panel_ranks(scene, prompt, texts))
    pairs = text_pairs(held)
    chances = scene.panel.probability_of([p.better for p in pairs], [p.worse for p in pairs], num_shown=k)
    rankings = [render(c, policy.tokenizer, 512) for c in held]
    raw = (margins(reward, rankings) * reward.std).tolist()
    by_panel = scene.config.annotator == "panel"
    return judge_reward(
        pairs,
        raw,
        training=text_pairs(training),
        ceiling=ceiling(chances) if by_panel else None,
        agreement=agreement(chances) if by_panel else None,
    )


def conclude(
    scene: Scene, policy: Model, reward: RewardModel, tuned: Model, comparisons: list[Comparison], since: float
) -> Outcome:
    """Evaluate blind, write the report, and give the figures."""
    with scene.timed("Blind evaluation", f"{scene.config.evaluation_prompts} openings, both orders"):
        prompts = scene.prompts("evaluation", scene.config.evaluation_prompts)
        tokens = [policy.tokenizer.prompt(p) for p in prompts]
        written = write(scene, policy, tuned, reward, prompts)
        openings = [p.messages[0].content for p in prompts]
        judges = {UNSEEN: score_judge(scene.blind.score, whole=True), "VADER": score_judge(vader, whole=True)}
        systems = {key: System(w.name, w.texts) for key, w in written.items() if key != "pool"}
        matches = compare(openings, systems["PPO"], systems["SFT"], judges)
        matches += compare(openings, systems["PPO"], systems["best"], judges)
        accuracy = reward_accuracy(scene, policy, reward, prompts, written["pool"], comparisons)
        reference = response_logprobs(policy, tokens, written["PPO"].sampled)
        kl = mean([float((s.logprobs - r).sum()) for s, r in zip(written["PPO"].sampled, reference, strict=True)])
        end = policy.tokenizer.end
        conditions = tuple(
            health(
                systems[key],
                finishes=[s.finish for s in written[key].sampled],
                perplexity=perplexity(scene.base, tokens, written[key].sampled, end),
            )
            for key in systems
        )
    seconds = time.monotonic() - since
    path = scene.folder / "report.html"
    numbers = _numbers(scene, openings, written, kl, conditions)
    outcome = Outcome(matches[0], kl.mean, seconds, path, matches, conditions, accuracy, numbers)
    write_report(_report(scene, outcome, openings, written, kl), path)
    scene.runs["ppo"].evaluate(outcome.as_json() | {"numbers": numbers})
    return outcome


def _liked(scene: Scene, openings: Sequence[str], texts: Sequence[str]) -> NDArray[np.float64]:
    return scene.blind.score([o + t for o, t in zip(openings, texts, strict=True)])


def _numbers(
    scene: Scene, openings: Sequence[str], written: dict[str, Written], kl: Mean, conditions: Sequence[Health]
) -> dict[str, float]:
    found = {"KL per response (nats)": kl.mean}
    for key in ("SFT", "best", "PPO"):
        found[f"{written[key].name}: share liked by the unseen judge"] = float(
            (_liked(scene, openings, written[key].texts) > 0).mean()
        )
        found[f"{written[key].name}: mean reward"] = float(np.mean(written[key].rewards))
    sft, ppo = conditions[0].perplexity, conditions[-1].perplexity
    if sft and ppo:
        found["perplexity under the base model, PPO over SFT"] = ppo / sft
    return found


def _report(scene: Scene, outcome: Outcome, openings: Sequence[str], written: dict[str, Written], kl: Mean) -> Report:
    rate = outcome.win_rate.win_rate
    by_panel = scene.config.annotator == "panel"
    accuracy = outcome.reward.accuracy
    ratio = outcome.numbers.get("perplexity under the base model, PPO over SFT", math.nan)
    headlines = (
        Headline(
            "PPO wins against SFT", f"{rate.rate:.0%}", f"{rate} by the {UNSEEN}", "good" if rate.low > 0.5 else "plain"
        ),
        Headline("KL from SFT", f"{kl.mean:.1f} nats", f"per response, 95 % {kl.low:.1f} to {kl.high:.1f}, n {kl.n}"),
        Headline("Reward-model accuracy", f"{accuracy.rate:.0%}", f"{accuracy} on held-out rankings"),
        Headline("Perplexity", f"{ratio:.2f}×", "of PPO's text under the base model, over SFT's"),
    )
    answers = [
        Sample(
            openings[i],
            tuple(Answer(w.name, w.texts[i], {"reward": w.rewards[i]}) for k, w in written.items() if k != "pool"),
        )
        for i in range(min(12, len(openings)))
    ]
    return Report(
        title="tutelage: the demo",
        summary=(
            f"A {scene.config.model} learned to continue film reviews as readers like them. "
            f"Its text was preferred to the fine-tuned model's in {rate.rate:.0%} of {rate.n} blind comparisons."
        ),
        annotators=SIMULATED if by_panel else BY_PERSON,
        headlines=headlines,
        matches=outcome.matches,
        health=outcome.health,
        steps=tuple(Step(*step) for step in scene.steps),
        charts=_charts(scene),
        reward=outcome.reward,
        lengths={w.name: word_counts(w.texts).tolist() for k, w in written.items() if k != "pool"},
        samples=tuple(answers),
        numbers=outcome.numbers,
        configuration=scene.config.model_dump(mode="json"),
        lineage=tuple(
            Ancestor(depth, run.id, run.facts["status"]) for depth, run in enumerate(reversed(scene.runs.values()))
        ),
        facts={
            "Command": f"tutelage demo --seed {scene.config.seed}",
            "Version": f"tutelage {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
            "Machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "Seed": str(scene.config.seed),
            "Date": date.today().isoformat(),
        },
    )


def _tone(rate: Rate) -> Literal["good", "plain"]:
    return "good" if rate.low > 0.5 else "plain"


def _charts(scene: Scene) -> tuple[Chart, ...]:
    rows = scene.runs["ppo"].metrics()

    def series(name: str) -> tuple[float, ...]:
        return tuple(row[name] for row in rows)

    steps, kl = series("step"), series("ppo/kl")
    return (
        Chart("Reward", "PPO step", "standard deviations", (Line("reward model", steps, series("ppo/score")),)),
        Chart("KL from SFT", "PPO step", "nats per response", (Line("KL", steps, kl),)),
        Chart(
            "Gold against proxy",
            "KL, nats per response",
            "score",
            (
                Line("proxy", kl, series("ppo/score")),
                Line("labeller", kl, series("ppo/gold_labeller")),
                Line("gold", kl, series("ppo/gold_unseen")),
            ),
            "Proxy: the reward model, in standard deviations. Labeller and gold: the annotators' and the unseen judge, "
            "in log-odds. Where the proxy rises and the gold does not, the policy exploits the reward model.",
        ),
    )
