"""O1: PPO reaches the closed-form optimum ref·exp(r/b)/Z, and none of seven planted bugs passes.

Six of them miss the optimum. Sampling at temperature 0.7 what is scored at 1 does not: where the advantage is zero for
every response, it is so under any sampling. That one is stopped by `check_sampler`.
"""

import pytest
import torch
from exact import ColdSampler, ppo_config, table_world, token_world, train

from tutelage.errors import TrainingError
from tutelage.learn import rollout
from tutelage.learn.kl import KLConfig
from tutelage.model.maths import KL, kl_estimates

BAR = 5e-4
NO_END = -1


def test_the_objective_is_the_best_one_minus_the_kl_to_the_optimum():
    world = token_world(1.0)
    other = token_world(1.0, seed=5).reference
    for network in (world.reference, other):
        assert world.objective(network) == pytest.approx(world.best - world.kl_to_optimum(network), abs=1e-5)
    assert float(world.optimum.exp().sum()) == pytest.approx(1, abs=1e-9)
    assert float(world.base.exp().sum()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("coefficient", "bar"), [(1.0, BAR), (0.3, 2 * BAR)])
def test_ppo_reaches_the_tabular_optimum(coefficient, bar):
    world = table_world(coefficient)
    assert world.kl_to_optimum(world.reference) > 0.2
    assert world.kl_to_optimum(train(world, ppo_config(coefficient), end=NO_END)) < bar


def clipped(world):
    return lambda p, r: world.reward(p, r).clamp(-1, 1)


def divided(world):
    return lambda p, r: world.reward(p, r) / world.reward(p, r).std()


PLANTED = {
    "KL sign flipped": {"changes": {"kl": KLConfig.model_construct(coefficient=-1.0)}, "at_least": 0.5, "steps": 25},
    "KL left out": {"changes": {"kl": {"coefficient": 0.0}}, "at_least": 0.5, "steps": 25},
    "reference drifts with the policy": {"drift": True, "at_least": 0.5, "steps": 25},
    "k3 as the penalty": {"k3": True, "at_least": 0.05},
    "rewards clipped": {"reward": clipped, "at_least": 0.02},
    "rewards divided by their deviation": {"reward": divided, "at_least": 2e-3},
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bugs_miss_the_optimum(name, monkeypatch):
    bug = PLANTED[name]
    world = table_world(1.0)
    if bug.get("k3"):
        real = kl_estimates
        monkeypatch.setattr(rollout, "kl_estimates", lambda a, b: KL(real(a, b).k3, real(a, b).k2, real(a, b).k3))
    found = train(
        world,
        ppo_config(1.0, **bug.get("changes", {})),
        end=NO_END,
        reward=bug["reward"](world) if "reward" in bug else None,
        drift=bug.get("drift", False),
    )
    assert world.kl_to_optimum(found) > max(BAR, bug["at_least"])


def test_samples_of_another_temperature_stop_the_run():
    world = table_world(1.0)
    with pytest.raises(TrainingError, match="another distribution"):
        train(world, ppo_config(1.0), end=NO_END, sampler=ColdSampler(world.reference, NO_END))


def test_ppo_nears_the_token_level_optimum():
    world = token_world(1.0, words=3, steps=3)
    before = world.kl_to_optimum(world.reference)
    config = ppo_config(
        1.0, steps=80, batch_size=1024, sampling={"max_tokens": 3, "slots": 1024},
        optimizer={"learning_rate": 0.003, "max_grad_norm": 1e9},
    )  # fmt: skip
    after = world.kl_to_optimum(train(world, config, end=3))
    assert before > 0.2
    assert after < 2 * BAR


def test_o11_reward_rises_and_with_the_sign_flipped_it_falls():
    world = table_world(0.1)
    config = ppo_config(0.1, steps=8, batch_size=256)
    mean = lambda network: float((world.logprobs(network).exp() * world.rewards).sum())  # noqa: E731
    up = mean(train(world, config, end=NO_END))
    down = mean(train(world, config, end=NO_END, reward=lambda p, r: -world.reward(p, r)))
    start = mean(world.reference)
    assert down < start - 0.3 < start + 0.3 < up
    assert torch.isfinite(torch.tensor(up))
