"""Rejection sampling: what is kept, that it learns, what it forgets; best-of-n's exact law (O5) and its curve."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import table_world
from hypothesis import given
from hypothesis import strategies as st

from tutelage.errors import DataError, Interrupted, TrainingError
from tutelage.evaluate.best_of_n import charts, counts, curve
from tutelage.evaluate.figures import draw
from tutelage.evaluate.statistics import best_of_n_kl
from tutelage.learn.best_of_n import BestOfN, Kept, RaftConfig, RaftState, raft, select
from tutelage.learn.reward import RewardModel
from tutelage.model.batch import Example
from tutelage.model.causal import Model, fingerprint
from tutelage.model.heads import Head, Scorer
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.runs import Run
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import SamplingParams
from tutelage.sample.scripted import Scripted

PROMPTS = [[65 + i, 66] for i in range(12)]
SMALL = {
    "rounds": 3, "prompts": 8, "samples": 4, "steps": 6, "batch_size": 8, "sampling": {"max_tokens": 6},
    "optimizer": {"learning_rate": 1e-2, "schedule": "constant"}, "end": {"kind": "none"},
}  # fmt: skip
PROBE = [Example((65, 66, 97, 98, 99, 258), (False, False, True, True, True, True))]
DOCS = Path(__file__).parent.parent / "docs"


def likes_even(prompts, responses):
    """Likes even tokens: the share of them."""
    return torch.tensor([sum(t % 2 == 0 for t in r) / len(r) for r in responses])


def model():
    return Model(tiny_decoder(260), tiny_tokenizer(), "tiny")


def go(folder, reward=likes_even, asked=PROMPTS, **changes):
    """Start, or go on with the run that is there."""
    config = RaftConfig.model_validate(SMALL | changes)
    found = sorted(p.parent for p in Path(folder).glob("raft-*/run.json"))
    run = Run.open(found[0]) if found else Run.start(Path(folder), "raft", config)
    return raft(model(), reward, asked, config, run, probe=PROBE), run


def test_it_learns_what_is_rewarded_and_the_opposite_of_what_is_not(tmp_path):
    up = go(tmp_path / "up", rounds=4, prompts=12, samples=8)[1].metrics()[1:]
    down = go(tmp_path / "down", lambda p, r: -likes_even(p, r), rounds=4, prompts=12, samples=8)[1].metrics()[1:]
    assert up[-1]["raft/score"] > up[0]["raft/score"] + 0.15
    assert -down[-1]["raft/score"] < up[0]["raft/score"] - 0.15
    assert up[0]["raft/best"] > up[0]["raft/score"] + 0.1
    assert up[0]["raft/kl"] == pytest.approx(0, abs=1e-4)
    assert up[-1]["raft/kl"] > 0.1


def test_what_was_known_before_is_forgotten_and_the_probe_sees_it(tmp_path):
    rows = go(tmp_path, rounds=2, steps=20)[1].metrics()
    assert list(rows[0]) == ["step", "raft/probe_loss"]
    assert [row["step"] for row in rows] == [0, 20, 40]
    assert rows[-1]["raft/probe_loss"] > rows[0]["raft/probe_loss"] + 0.5


def kept(prompt, text, score):
    return Kept(prompt, 1, (prompt, *text.encode()), score)


def test_the_best_different_ones_of_each_prompt_are_kept():
    found = [kept(1, "a", 1.0), kept(2, "x", 5.0), kept(1, "b", 3.0), kept(1, "b", 3.0), kept(1, "c", 3.0)]
    assert select(found, 1, None) == [found[2], found[1]]  # equal scores: the first
    assert select(found, 2, None) == [found[2], found[4], found[1]]  # the same text counts once
    assert select(found, 2, 4.0) == [found[1]]
    assert select(found, 9, None) == [found[2], found[4], found[0], found[1]]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.floats(-1, 1)), max_size=20), st.integers(1, 3))
def test_pooling_round_by_round_is_selecting_from_everything(rows, best):
    found = [kept(*row) for row in rows]
    pool = []
    for one in found:
        pool = select([*pool, one], best, None)
    by_text = {}
    for one in found:
        by_text.setdefault(one.tokens, one.score)
    whole = select(found, best, None)
    if len(by_text) == len({(one.tokens, one.score) for one in found}):  # a text scores the same each time
        assert sorted(one.tokens for one in pool) == sorted(one.tokens for one in whole)
    assert all(sum(o.prompt == one.prompt for o in pool) <= best for one in pool)


@pytest.mark.parametrize("pool", ["all", "last"])
def test_the_pool_holds_the_best_of_all_rounds_or_of_the_last(pool):
    config = RaftConfig.model_validate(SMALL | {"pool": pool, "prompts": 12})
    t = RaftState(model(), likes_even, config, None)
    best = []
    for _ in range(3):
        rollout = t.sample(PROMPTS)
        best.append({p: max(s for q, s in zip(rollout.sequences, rollout.scores.tolist(), strict=True) if q[0] == p)
                     for p in range(65, 77)})  # fmt: skip
    expected = {p: max(b[p] for b in best) if pool == "all" else best[-1][p] for p in range(65, 77)}
    assert {one.tokens[0]: pytest.approx(one.score) for one in t.pool} == expected
    assert t.logged["pool"] == 12


def test_exactly_the_completion_is_trained():
    assert Kept(0, 2, (5, 6, 7, 8), 1.0).example == Example((5, 6, 7, 8), (False, False, True, True))


def test_nothing_worth_keeping_and_no_prompts_are_errors(tmp_path):
    with pytest.raises(TrainingError, match=r"raft\.least \(2\.0\)"):
        go(tmp_path / "a", least=2.0)
    with pytest.raises(TrainingError, match="no prompts"):
        go(tmp_path / "b", asked=[])


def test_a_temperature_of_nothing_is_refused():
    with pytest.raises(ValueError, match="rollouts need a temperature above 0: else another policy is sampled"):
        RaftConfig.model_validate(SMALL | {"sampling": {"temperature": 0}})


# ---- nothing lost


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    trained, run = go(tmp_path_factory.mktemp("straight"))
    return fingerprint(trained.decoder), run.metrics()


def test_every_metric_logged_is_explained(straight):
    page = (DOCS / "best-of-n.md").read_text(encoding="utf-8")
    missing = sorted({name for row in straight[1] for name in row if name != "step" and f"`{name}`" not in page})
    assert not missing


SCRIPT = """
import os, signal, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import tutelage.learn.learner as l
from test_best_of_n import go
real, seen = l.Learner.update, [0]
def update(self, *parts):
    seen[0] += 1
    if seen[0] == 9:
        os.kill(os.getpid(), signal.{how})
    return real(self, *parts)
l.Learner.update = update
go({folder!r})
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_killed_or_interrupted_and_resumed_is_bit_equal(tmp_path, straight, how):
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path), how=how)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == -signal.SIGKILL if how == "SIGKILL" else "--resume" in done.stderr
    saved = Run.open(next(tmp_path.glob("raft-*"))).restore()
    assert saved[0] == (6 if how == "SIGKILL" else 9)  # SIGKILL in the second round: its sampling is done again
    trained, run = go(tmp_path)
    assert fingerprint(trained.decoder) == straight[0]
    assert run.metrics() == straight[1]


def test_a_request_to_stop_is_an_interruption(tmp_path):
    config = RaftConfig.model_validate(SMALL)
    run = Run.start(tmp_path, "raft", config)
    run.stop_requested = True
    with pytest.raises(Interrupted, match="--resume"):
        raft(model(), likes_even, PROMPTS, config, run)


# ---- best of n at inference, and its law


@pytest.mark.parametrize("n", [1, 2, 8])
def test_o5_best_of_n_follows_its_exact_law(n):
    """P(y) = F(y)^n − F(y−)^n, F over the responses ordered by score; and its KL is below log n − (n−1)/n."""
    world = table_world(1.0, responses=16)
    order = world.rewards.argsort()
    above = world.base.exp()[order].cumsum(0)
    law = torch.zeros(16, dtype=torch.float64)
    law[order] = above**n - torch.cat((torch.zeros(1), above[:-1])) ** n
    exact_kl = float((law * ((law + 1e-300).log() - world.base)).sum())
    assert exact_kl <= best_of_n_kl(n) + 1e-9
    draws = 4000
    sampler = BestOfN(Engine(world.reference, -1), world.reward, n)
    found = sampler.generate([list(world.prompt)] * draws, SamplingParams(max_tokens=1, slots=4000), seed=0)
    counted = torch.bincount(torch.tensor([one.tokens[0] for one in found]), minlength=16)
    chi_square = float(((counted - draws * law) ** 2 / (draws * law).clamp_min(1e-9))[law * draws > 1].sum())
    assert chi_square < 45  # 15 degrees of freedom: once in 10,000
    if n > 1:
        plain = ((counted - draws * world.base.exp()) ** 2 / (draws * world.base.exp())).sum()
        assert float(plain) > 200


def test_with_many_responses_the_kl_is_the_formula():
    p = np.full(100_000, 1e-5)
    above = p.cumsum()
    law = above**16 - (above - p) ** 16
    assert float((law * np.log(np.maximum(law, 1e-300) / p)).sum()) == pytest.approx(best_of_n_kl(16), abs=1e-3)
    assert best_of_n_kl(16) == pytest.approx(math.log(16) - 15 / 16)


def test_best_of_n_asks_n_times_keeps_order_and_takes_the_first_of_equals():
    script = Scripted([[5], [7, 1], [7, 2], [6], [8], [9]], end=99)
    told = []
    sampler = BestOfN(script, lambda p, r: torch.tensor([float(one[0]) for one in r]), 3)
    found = sampler.generate([[1], [2]], SamplingParams(max_tokens=4), seed=0, progress=told.append)
    assert [one.tokens for one in found] == [(7, 1), (9,)]
    assert told[-1] == 2
    assert list(sampler.stream([[1], [2]], SamplingParams(max_tokens=4), seed=0)) == [{0: 7, 1: 9}, {0: 1}]
    decoder = tiny_decoder(260)
    sampler.load(decoder)
    assert script.loads == [decoder]
    assert sampler.generate([], SamplingParams(), seed=0) == []
    with pytest.raises(ValueError, match="at least 1"):
        BestOfN(script, likes_even, 0)


def test_best_of_n_by_a_reward_model_is_its_favourite():
    decoder = tiny_decoder(260)
    reward = RewardModel(Scorer(decoder, Head.reward(32, torch.Generator().manual_seed(1))), tiny_tokenizer(), 0.0, 1.0)
    params = SamplingParams(max_tokens=5)
    engine = Engine(decoder, tiny_tokenizer().end)
    (chosen,) = BestOfN(engine, reward, 4).generate([[70, 71]], params, seed=3)
    every = engine.generate([[70, 71]] * 4, params, seed=3)
    scores = [float(reward.score([(70, 71, *one.tokens)])[0]) for one in every]
    assert chosen.tokens == every[scores.index(max(scores))].tokens


# ---- the curve


def test_the_counts_double_up_to_all():
    assert list(counts(12)) == [1, 2, 4, 8, 12]
    assert list(counts(8)) == [1, 2, 4, 8]


def test_the_curve_shows_a_proxy_that_rises_while_gold_turns():
    """O6 in one dimension: gold = x − x², proxy = x. Exact: E[best of n of N(0, 1)] and its square."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 16))
    points = curve(x.tolist(), (x - x**2).tolist())
    assert [p.n for p in points] == [1, 2, 4, 8, 16]
    expected = {1: 0.0, 2: 1 / math.sqrt(math.pi), 4: 1.0294, 8: 1.4236, 16: 1.7660}  # order statistics of a normal
    for point in points:
        assert point.proxy.low < expected[point.n] < point.proxy.high
        assert point.kl == best_of_n_kl(point.n)
        assert point.proxy.n == 2000
    assert points[0].gold.mean == pytest.approx(-1, abs=0.1)
    golds = [p.gold.mean for p in points]
    assert golds.index(max(golds)) in (1, 2)
    assert golds[-1] < max(golds) - 0.5


def test_the_interval_is_over_prompts_not_samples():
    table = [[float(p)] * 8 for p in range(10)]  # no spread within a prompt, much between
    first = curve(table)[0].proxy
    assert first.n == 10
    assert first.high - first.low > 2


@pytest.mark.parametrize(
    ("proxy", "gold"), [([[1.0, 2.0]], None), ([[1.0], [1.0, 2.0]], None), ([[1.0]] * 3, [[1.0]] * 2)]
)
def test_scores_that_make_no_curve_are_refused(proxy, gold):
    with pytest.raises(DataError, match="a curve needs"):
        curve(proxy, gold)


def test_the_curve_is_drawn_with_its_interval():
    points = curve([[0.0, 1.0, 2.0], [1.0, 3.0, 0.0]], [[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    by_kl, by_n = charts(points, "reward-1", "rules")
    assert [line.label for line in by_kl.lines] == ["proxy", "gold"]
    assert by_kl.lines[0].low == tuple(p.proxy.low for p in points)
    assert by_n.lines[0].x == (1.0, 2.0, 3.0)
    assert "2 prompts" in by_kl.caption
    assert "proxy: reward-1, gold: rules" in by_kl.caption
    assert draw(by_kl).source.startswith("data:image/svg")
    assert len(charts(points, "reward-1", None)[0].lines) == 1
