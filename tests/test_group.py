"""Policy gradients without a critic: what is averaged over what, which groups count, and that nothing is lost."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tutelage.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from tutelage.learn.advantage import Grpo, Reinforce, Rloo, advantages
from tutelage.learn.group import GroupConfig, GroupState, group, group_loss, join, optimise
from tutelage.model.batch import pick
from tutelage.model.causal import Model, fingerprint
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.runs import Run
from tutelage.sample.scripted import Scripted

PROMPTS = [[65 + i, 66] for i in range(12)]
SMALL = {
    "steps": 4, "batch_size": 8, "group_size": 4, "epochs": 2, "minibatches": 2, "sampling": {"max_tokens": 6},
    "optimizer": {"learning_rate": 1e-2}, "kl": {"coefficient": 0.05}, "evaluate_every": 0, "end": {"kind": "none"},
}  # fmt: skip
DOCS = Path(__file__).parent.parent / "docs"


def likes_even(prompts, responses):
    """Likes even tokens: the share of them."""
    return torch.tensor([sum(t % 2 == 0 for t in r) / len(r) for r in responses])


def model():
    return Model(tiny_decoder(260), tiny_tokenizer(), "tiny")


def run_group(tmp_path, reward=likes_even, **changes):
    config = GroupConfig.model_validate(SMALL | changes)
    run = Run.start(tmp_path, "group", config)
    return group(model(), reward, PROMPTS, config, run, held_out=PROMPTS[:6]), run


def state(reward=likes_even, sampler=None, **changes):
    return GroupState(model(), reward, GroupConfig.model_validate(SMALL | changes), sampler)


def uneven(**changes):
    """A state and its rollout of responses of 1 to 6 tokens, as if the policy itself had written them."""
    t = state(sampler=Scripted([[n * 17 + i for i in range(n)] for n in (3, 1, 6, 2, 5, 4, 6, 1)], end=999), **changes)
    rollout = t.draw(PROMPTS)
    return t, replace(rollout, old=rollout.reference)


KINDS = {
    "rloo": {},
    "grpo": {"advantage": {"kind": "grpo"}, "kl_in": "loss", "kl_loss": "k3", "average": "response"},
    "reinforce": {"advantage": {"kind": "reinforce"}, "group_size": 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_is_rewarded_and_the_opposite_of_what_is_not(tmp_path, kind):
    longer = {"steps": 16, "batch_size": 64, "minibatches": 1, **KINDS[kind]}
    up = run_group(tmp_path, **longer)[1].metrics()
    down = run_group(tmp_path, reward=lambda p, r: -likes_even(p, r), **longer)[1].metrics()
    assert up[-1]["group/score"] > up[0]["group/score"] + 0.2
    assert -down[-1]["group/score"] < up[0]["group/score"] - 0.2
    assert up[0]["group/kl"] == pytest.approx(0, abs=1e-4)
    assert up[-1]["group/kl"] > 0.1


def test_advantages_by_hand():
    rewards = torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0])
    assert advantages(rewards, 3, Rloo(), None).tolist() == [-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]
    assert torch.allclose(
        advantages(rewards, 3, Grpo(divide_by="nothing"), None), torch.tensor([-2, -1, 3, -1, -1, 2.0])
    )
    group_std = torch.tensor([7.0, 3.0]).sqrt().repeat_interleave(3)
    expected = torch.tensor([-2, -1, 3, -1, -1, 2.0]) / group_std
    assert torch.allclose(advantages(rewards, 3, Grpo(), None), expected, atol=1e-3)
    batch = torch.tensor([-2, -1, 3, -1, -1, 2.0]) / rewards.std()
    assert torch.allclose(advantages(rewards, 3, Grpo(divide_by="batch"), None), batch, atol=1e-3)
    assert advantages(rewards, 1, Reinforce(), 2.0).tolist() == (rewards - 2).tolist()
    assert advantages(rewards, 1, Reinforce(baseline="none"), 2.0).tolist() == rewards.tolist()
    batch_baseline = advantages(rewards, 1, Reinforce(baseline="batch"), 2.0)
    assert batch_baseline[2] == pytest.approx(6 - 6 / 5)
    assert torch.equal(advantages(rewards, 1, Reinforce(), None), batch_baseline)  # no batch came before


def test_cutting_a_group_between_prompts_changes_nothing_and_within_one_does():
    rewards = torch.tensor([1.0, 2.0, 6.0, 0.0])
    whole = advantages(rewards, 2, Rloo(), None)
    apart = torch.cat([advantages(part, 2, Rloo(), None) for part in rewards.split(2)])
    assert torch.equal(whole, apart)
    assert not torch.equal(whole, advantages(rewards, 4, Rloo(), None))


def test_the_running_mean_is_that_of_the_rewards():
    t = state(advantage={"kind": "reinforce", "decay": 0.75}, group_size=1)
    seen = []
    for _ in range(3):
        t.rollout = t.draw(PROMPTS)
        seen.append(float(t.rewards(t.rollout).mean()))
        t.finish_step(0.0)
    assert t.moving == pytest.approx(0.75 * (0.75 * seen[0] + 0.25 * seen[1]) + 0.25 * seen[2])


@pytest.mark.parametrize("average", ["token", "response", "constant"])
@pytest.mark.parametrize("ratio", ["token", "response"])
@torch.no_grad()
def test_what_is_averaged_over_what(average, ratio):
    """Against a loop over responses, by a policy that has moved since it sampled."""
    t, rollout = uneven(average=average, ratio=ratio, kl_in="loss", clip_higher=0.4)
    noise = torch.randn(2, len(rollout.old), generator=torch.Generator().manual_seed(1))
    old, reference = rollout.old + 0.3 * noise[0], rollout.reference + noise[1]
    rollout = t.shaped(replace(rollout, old=old, reference=reference))
    m, lengths = rollout.take(range(8)), rollout.response_lengths
    loss, _ = group_loss(t.actor.policy, m, t.config, price=0.5, length=sum(lengths) / 8, shared=0)
    logp, old, ref, adv = (
        x.split(lengths) for x in (t.actor.policy(m.batch).logprob, m.old, m.reference, m.advantages)
    )
    total, weight = 0.0, 0.0
    for p, q, r, a in zip(logp, old, ref, adv, strict=True):
        change = (p - q).mean().expand(len(p)) if ratio == "response" else p - q
        worse = torch.minimum(a * change.exp(), a * change.exp().clamp(0.8, 1.4))
        terms = -worse + 0.5 * 0.5 * (p - r) ** 2
        over = {"token": len(p) / sum(lengths), "response": 1 / 8, "constant": len(p) / (8 * 6)}[average]
        total, weight = total + over * float(terms.mean()), weight + over
    assert float(loss) / sum(lengths) == pytest.approx(total, rel=1e-4)
    assert weight == pytest.approx(1) or average == "constant"


def moved(t, rollout):
    """How far one step on a rollout moves the weights."""
    before = {n: p.detach().clone() for n, p in t.policy_weights.items()}
    optimise(t, rollout, SimpleNamespace(stop_requested=False))
    return torch.cat([(p.detach() - before[n]).flatten() for n, p in t.policy_weights.items()])


@pytest.mark.parametrize("average", ["token", "response", "constant"])
def test_micro_batches_change_nothing(average):
    moves = []
    for most in (100_000, 9):
        t, rollout = uneven(average=average, micro_tokens=most, epochs=1, minibatches=1, kl_in="loss")
        moves.append(moved(t, rollout))
    assert float(moves[0].abs().max()) > 1e-3
    assert torch.allclose(moves[0], moves[1], atol=2e-4)


def test_the_order_of_groups_changes_nothing():
    moves = []
    for order in (range(8), [4, 5, 6, 7, 0, 1, 2, 3]):
        t, rollout = uneven(epochs=1, minibatches=1)
        lengths = rollout.response_lengths
        parts = {
            name: torch.cat([rollout.__dict__[name].split(lengths)[i] for i in order])
            for name in ("old", "reference", "values", "rewards", "advantages", "returns")
        }
        rollout = replace(
            rollout,
            sequences=tuple(rollout.sequences[i] for i in order),
            scores=rollout.scores[list(order)],
            ended=rollout.ended[list(order)],
            **parts,
        )
        moves.append(moved(t, rollout))
    assert torch.allclose(moves[0], moves[1], atol=2e-4)


def by_prompt(prompts, responses):
    """Only prompts of odd first token tell responses apart."""
    return torch.tensor([sum(r) / 1000 if p[0] % 2 else 0.0 for p, r in zip(prompts, responses, strict=True)])


def test_groups_of_equal_scores_are_kept_dropped_or_redrawn():
    kept, dropped, redrawn = (state(by_prompt, equal_groups=e) for e in ("keep", "drop", "redraw"))

    def mixed(batch):
        return sum(PROMPTS[i][0] % 2 for i in pick(12, 2, batch, 0)) == 1

    kept.step = dropped.step = next(step for step in range(6) if mixed(step))
    redrawn.step = next(step for step in range(6) if mixed(4 * step))  # a step may take four batches of prompts
    a, b, c = (t.draw(PROMPTS) for t in (kept, dropped, redrawn))
    assert a.sequences == b.sequences
    assert kept.trained(a) == list(range(8))
    odd = [i for i, s in enumerate(b.sequences) if s[0] % 2]
    assert dropped.trained(b) == odd
    assert len(c.sequences) > 8
    chosen = redrawn.trained(c)
    assert len(chosen) == 8
    assert all(c.sequences[i][0] % 2 for i in chosen)
    assert redrawn.group_metrics(c)["group/trained"] == 8 / len(c.sequences)
    assert kept.group_metrics(a)["group/equal"] == 0.5


def test_when_every_group_is_equal_all_are_trained():
    t = state(lambda p, r: torch.zeros(len(r)), equal_groups="redraw", redraws=2)
    rollout = t.draw(PROMPTS)
    assert len(rollout.sequences) == 24
    assert t.trained(rollout) == list(range(8))


def test_joined_rollouts_are_the_rollouts_one_after_another():
    t = state()
    a, b = t.roll_out(PROMPTS[:4], seed=1), t.roll_out(PROMPTS[4:8], seed=2)
    both = join([a, b])
    assert both.sequences == a.sequences + b.sequences
    assert torch.equal(both.old, torch.cat((a.old, b.old)))
    assert both.hidden is None
    assert torch.equal(both.take([5]).old, b.take([1]).old)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"batch_size": 10}, "multiple of group_size"),
        ({"group_size": 1}, "only reinforce"),
        ({"group_size": 1, "equal_groups": "drop", "advantage": {"kind": "reinforce"}}, "only reinforce"),
        ({"sampling": {"top_k": 5}}, "another policy"),
        (
            {"batch_size": 1, "group_size": 1, "advantage": {"kind": "reinforce", "baseline": "batch"}},
            "batch_size 1 has no other responses",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        GroupConfig.model_validate(SMALL | {"minibatches": 1} | bad)


def test_responses_one_at_a_time_have_a_running_mean_that_begins_at_nothing(tmp_path):
    alone = {"batch_size": 1, "group_size": 1, "minibatches": 1, "advantage": {"kind": "reinforce"}, "steps": 3}
    assert len(run_group(tmp_path, **alone)[1].metrics()) == 3
    assert advantages(torch.tensor([0.7]), 1, Reinforce(), None).tolist() == pytest.approx([0.7])
    assert advantages(torch.tensor([0.7]), 1, Reinforce(), 0.5).tolist() == pytest.approx([0.2])


def test_to_keep_the_best_the_last_step_is_measured_too(tmp_path):
    rows = run_group(tmp_path, steps=3, evaluate_every=2, keep="best")[1].metrics()
    assert [row["step"] for row in rows if "group/evaluation_score" in row] == [2, 3]


def test_no_prompts_and_no_held_out_prompts_are_errors(tmp_path):
    config = GroupConfig.model_validate(SMALL)
    with pytest.raises(TrainingError, match="no prompts"):
        group(model(), likes_even, [], config, Run.start(tmp_path, "group", config))
    with pytest.raises(ConfigError, match=r"group\.keep"):
        group(model(), likes_even, PROMPTS, GroupConfig(keep="best"), Run.start(tmp_path, "group", config))


def test_the_budget_ends_the_run(tmp_path):
    steps = run_group(tmp_path, steps=30, batch_size=16, kl={"coefficient": 0.0, "budget": 0.3})[1].metrics()
    assert len(steps) < 30
    assert steps[-1]["group/kl"] > 0.3
    assert all(s["group/kl"] <= 0.3 for s in steps[:-1])


# ---- nothing lost

FULL = {
    "equal_groups": "redraw", "ema": 0.9, "save_every": 1, "evaluate_every": 2, "keep": "best",
    "kl": {"coefficient": 0.1, "target": 0.5, "horizon": 50}, "advantage": {"kind": "reinforce"},
}  # fmt: skip


def go(folder):
    """Start, or go on with the run that is there."""
    config = GroupConfig.model_validate(SMALL | FULL)
    found = sorted(p.parent for p in Path(folder).glob("group-*/run.json"))
    run = Run.open(found[0]) if found else Run.start(Path(folder), "group", config)
    return group(model(), by_prompt, PROMPTS, config, run, held_out=PROMPTS[:4]), run


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    trained, run = go(tmp_path_factory.mktemp("straight"))
    return fingerprint(trained.decoder), run.metrics()


def test_every_metric_logged_is_explained(straight):
    page = (DOCS / "group.md").read_text(encoding="utf-8")
    missing = sorted({name for row in straight[1] for name in row if name != "step" and f"`{name}`" not in page})
    assert not missing


SCRIPT = """
import os, signal, sys, torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import tutelage.learn.learner as l
from test_group import go
real, seen = l.Learner.update, [0]
def update(self, *parts):
    seen[0] += 1
    if seen[0] == 7:
        os.kill(os.getpid(), signal.{how})
    return real(self, *parts)
l.Learner.update = update
go({folder!r})
"""


@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_killed_or_interrupted_and_resumed_is_bit_equal(tmp_path, straight, how):
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path), how=how)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    if how == "SIGKILL":
        assert done.returncode == -signal.SIGKILL
    else:
        assert "--resume" in done.stderr
        assert 0 < Run.open(next(tmp_path.glob("group-*"))).restore()[1]["place"] < 4
    trained, run = go(tmp_path)
    assert fingerprint(trained.decoder) == straight[0]
    assert run.metrics() == straight[1]


def test_a_request_to_stop_is_an_interruption_and_another_reference_is_refused(tmp_path):
    config = GroupConfig.model_validate(SMALL)
    run = Run.start(tmp_path, "group", config)
    run.stop_requested = True
    with pytest.raises(Interrupted, match="--resume"):
        group(model(), likes_even, PROMPTS, config, run)
    run.stop_requested = False
    other = Model(tiny_decoder(260, seed=9), tiny_tokenizer(), "tiny")
    with pytest.raises(CheckpointError, match="reference"):
        group(other, likes_even, PROMPTS, config, run)
