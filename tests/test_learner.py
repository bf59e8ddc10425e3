"""The one optimiser step: how a batch is cut cannot change a gradient, and bad numbers cannot change a weight."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tutelage.errors import TrainingError
from tutelage.learn.learner import Learner, OptimizerConfig, Part
from tutelage.learn.sft import batches, mean_loss, sft_loss
from tutelage.model.batch import Batch, Example, cut, pick
from tutelage.model.heads import Policy
from tutelage.model.tiny import tiny_decoder

EXAMPLES = [
    Example(tuple(range(3 + i, 9 + 3 * i)), (False, *(j % (i + 1) == 0 for j in range(5 + 2 * i)))) for i in range(6)
]


def gradients(parts_of_tokens, order):
    """One step with a huge epsilon, so that the update is proportional to the gradient."""
    decoder = tiny_decoder(64)
    policy = Policy(decoder)
    learner = Learner(dict(decoder.named_parameters()), OptimizerConfig(epsilon=1e6, max_grad_norm=1e9), 10)
    examples = [EXAMPLES[i] for i in order]
    metrics = learner.update(Part(batches(examples, parts_of_tokens), lambda b: sft_loss(policy, b)))
    return metrics


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 80), st.permutations(range(6)))
def test_cutting_and_order_change_nothing(most, order):
    whole, other = gradients(10_000, range(6)), gradients(most, order)
    assert other["sft/loss"] == pytest.approx(whole["sft/loss"], abs=1e-5)
    assert other["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-4)


def test_the_mean_is_over_tokens_not_over_micro_batches():
    policy = Policy(tiny_decoder(64))
    sums = [float(sft_loss(policy, b)[0].detach()) for b in batches(EXAMPLES, 1)]
    units = [b.units for b in batches(EXAMPLES, 1)]
    assert gradients(1, range(6))["sft/loss"] == pytest.approx(sum(sums) / sum(units), abs=1e-5)
    assert sum(sums) / sum(units) != pytest.approx(sum(s / u for s, u in zip(sums, units, strict=True)) / 6, abs=1e-3)
    assert mean_loss(policy, EXAMPLES, 7) == pytest.approx(sum(sums) / sum(units), abs=1e-5)


class One:
    units = 1


def test_parts_are_weighted_by_their_own_units():
    p = nn.Parameter(torch.zeros(2))
    learner = Learner({"p": p}, OptimizerConfig(max_grad_norm=1e9), 10)
    first = Part([One(), One()], lambda b: (p[0] * 3, {}))
    second = Part([One()], lambda b: (p[1] * 4, {}), weight=2.0)
    assert learner.update(first, second)["grad_norm"] == pytest.approx(math.hypot(3, 8))


def test_nan_leaves_the_weights_alone():
    p = nn.Parameter(torch.ones(3))
    learner = Learner({"p": p}, OptimizerConfig(), 10)
    with pytest.raises(TrainingError, match="gradient norm is nan"):
        learner.update(Part([One()], lambda b: ((p * float("nan")).sum(), {})))
    assert torch.equal(p.detach(), torch.ones(3))
    assert p.grad is None
    assert learner.step == 0


def test_nothing_to_train_is_an_error():
    with pytest.raises(TrainingError, match="frozen"):
        Learner({}, OptimizerConfig(), 1)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.5, 1, 1, 1, 1]), ("linear", [0.5, 1, 1, 2 / 3, 1 / 3]), ("cosine", [0.5, 1, 1, 0.75, 0.25])],
)
def test_schedules(schedule, expected):
    config = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=2)
    learner = Learner({"p": nn.Parameter(torch.zeros(1))}, config, 5)
    rates = []
    for step in range(5):
        learner.step = step
        rates.append(learner.learning_rate())
    assert rates == pytest.approx(expected)


def test_a_saved_learner_goes_on_as_if_it_had_not_stopped():
    def make():
        return Learner({"p": nn.Parameter(torch.tensor([1.0, -2.0]))}, OptimizerConfig(learning_rate=0.1), 8)

    def step(learner):
        learner.update(Part([One()], lambda b: ((learner.parameters["p"] ** 2).sum(), {})))

    straight, first, second = make(), make(), make()
    for _ in range(6):
        step(straight)
    for _ in range(3):
        step(first)
    second.load(first.save())
    for _ in range(3):
        step(second)
    assert torch.equal(straight.weights()["p"], second.weights()["p"])


def test_a_checkpoint_of_other_tensors_is_refused():
    learner = Learner({"p": nn.Parameter(torch.zeros(1))}, OptimizerConfig(), 1)
    with pytest.raises(TrainingError, match="other tensors"):
        learner.load({"weights": {"q": torch.zeros(1)}, "optimizer": {}, "step": 0})


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5))
def test_every_pass_sees_every_item_once(total, size, seed):
    drawn = [i for step in range(-(-3 * total // size)) for i in pick(total, size, step, seed)]
    for epoch in range(3):
        assert sorted(drawn[epoch * total : (epoch + 1) * total]) == list(range(total))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(1, 40))
def test_cut_keeps_order_and_the_bound(lengths, most):
    groups = cut(lengths, most)
    assert [i for g in groups for i in g] == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in g) <= most or len(g) == 1 for g in groups)


class Unit(NamedTuple):
    """A batch of one unit, whatever it holds."""

    inner: Batch
    units: float = 1.0


@pytest.mark.parametrize("headed", [True, False])
def test_rows_of_the_embedding_s_gradient_are_all_of_it(headed):
    """On a CPU a policy's embedding has a gradient of a few rows; with a loss on the tied output matrix too it becomes
    part of that one's, without it the learner has to lay it out."""
    batch, most = Batch.of(EXAMPLES), 0.01
    stepped, plain = tiny_decoder(64), tiny_decoder(64)
    policy = Policy(stepped)

    def loss_of(out):
        return out.hidden.square().sum() - (out.logprob.sum() if headed else 0.0)

    chosen = plain(batch.packed)[batch.index]
    logprob = torch.log_softmax(chosen @ plain.embed.weight.T, -1).gather(1, batch.target[:, None])
    (chosen.square().sum() - (logprob.sum() if headed else 0.0)).backward()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.1, eps=1e-3, weight_decay=0.0)
    norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), most)
    optimizer.step()

    config = OptimizerConfig(
        learning_rate=0.1, epsilon=1e-3, max_grad_norm=most, schedule="constant", weight_decay=0.0, beta2=0.999
    )
    learner = Learner(dict(stepped.named_parameters()), config, 10)
    metrics = learner.update(Part([Unit(batch)], lambda b: (loss_of(policy(b.inner)), {})))
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    for (name, mine), theirs in zip(stepped.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-3, msg=name)
