"""PPO's controls: adaptive KL (O10), budget, patience, best and average policy, and a sampler held to its word."""

import math

import pytest
import torch
from exact import ColdSampler, decoder, table_world

from tutelage.errors import ConfigError, TrainingError
from tutelage.learn.kl import KLConfig, KLController
from tutelage.learn.learner import OptimizerConfig
from tutelage.learn.ppo import PPOConfig, check_sampler, ppo
from tutelage.learn.ppo_state import PPOState
from tutelage.learn.sft import SFTConfig, sft
from tutelage.model.batch import Example
from tutelage.model.causal import Model
from tutelage.model.heads import Head
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.runs import Run

PROMPTS = [[65 + i, 66] for i in range(12)]


def likes_even(prompts, responses):
    """Likes even tokens: the share of them."""
    return torch.tensor([sum(t % 2 == 0 for t in r) / len(r) for r in responses])


def run_ppo(tmp_path, reward=likes_even, **changes):
    settings = {
        "steps": 6, "batch_size": 16, "epochs": 2, "critic": "shared", "sampling": {"max_tokens": 6},
        "optimizer": {"learning_rate": 1e-2}, "kl": {"coefficient": 0.05}, "evaluate_every": 1,
        "shaping": {"end": {"kind": "none"}},
    }  # fmt: skip
    config = PPOConfig.model_validate(settings | changes)
    run = Run.start(tmp_path, "ppo", config)
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    return ppo(model, reward, PROMPTS, config, run, held_out=PROMPTS[:6]), run


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_what_is_rewarded_and_the_opposite_of_what_is_not(tmp_path, seed):
    longer = {"seed": seed, "steps": 20, "batch_size": 64, "evaluate_every": 0}
    up = run_ppo(tmp_path, **longer)[1].metrics()
    down = run_ppo(tmp_path, reward=lambda p, r: -likes_even(p, r), **longer)[1].metrics()
    assert up[-1]["ppo/score"] > up[0]["ppo/score"] + 0.2
    assert -down[-1]["ppo/score"] < up[0]["ppo/score"] - 0.2
    assert up[-1]["ppo/kl"] > 0.1
    assert up[0]["ppo/kl"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("start", [0.001, 10.0])
def test_o10_the_adaptive_coefficient_settles_within_five_percent_of_the_target(start):
    controller = KLController(KLConfig(coefficient=start, target=6.0, horizon=1000))
    kl = 0.0
    for _ in range(2000):
        kl += 0.1 * (0.9 / controller.coefficient - kl)  # a plant: KL follows 1/b with a lag
        controller.update(kl, 64)
    assert kl == pytest.approx(6.0, rel=0.05)


def test_one_step_of_the_controller_is_the_paper_formula():
    controller = KLController(KLConfig(coefficient=0.2, target=6.0, horizon=10_000))
    controller.update(6.6, 512)
    assert controller.coefficient == pytest.approx(0.2 * (1 + 0.1 * 512 / 10_000))
    controller.update(100.0, 512)
    assert controller.coefficient == pytest.approx(0.2 * (1 + 0.1 * 0.0512) * (1 + 0.2 * 0.0512))
    fixed = KLController(KLConfig(coefficient=0.2))
    fixed.update(100.0, 512)
    assert fixed.coefficient == 0.2


def test_a_horizon_that_could_turn_the_coefficient_negative_is_refused():
    """The KL at 0 is 100 % below the target, of which 20 % count, of 6 episodes: 1 − 0.2 · 6 / 1 < 0."""
    with pytest.raises(ValueError, match=r"kl\.horizon 1 is too short for batch_size 6.* above 1\.2"):
        PPOConfig.model_validate({"batch_size": 6, "kl": {"target": 1.0, "horizon": 1}})
    config = PPOConfig.model_validate({"batch_size": 6, "kl": {"target": 1.0, "horizon": 2}})
    controller = KLController(config.kl)
    controller.update(0.0, config.batch_size)
    assert controller.coefficient == pytest.approx(0.05 * 0.4)
    assert PPOConfig.model_validate({"batch_size": 6, "kl": {"horizon": 1}}).kl.target is None


def test_the_budget_ends_the_run(tmp_path):
    steps = run_ppo(tmp_path, steps=30, kl={"coefficient": 0.0, "budget": 0.3})[1].metrics()
    assert len(steps) < 30
    assert steps[-1]["ppo/kl"] > 0.3
    assert all(s["ppo/kl"] <= 0.3 for s in steps[:-1])


def test_patience_ends_a_run_that_no_longer_improves(tmp_path):
    flat = run_ppo(tmp_path, reward=lambda p, r: torch.zeros(len(r)), steps=30, patience=3)[1].metrics()
    assert len(flat) == 4  # the first is the best, then three without a better one


def test_the_best_policy_is_kept_and_not_the_last(tmp_path):
    calls = [0]

    def turns(prompts, responses):
        calls[0] += 1
        return likes_even(prompts, responses) * (1 if calls[0] <= 12 else -1)  # after 6 of 12 steps the taste turns

    model, run = run_ppo(tmp_path, reward=turns, steps=12, keep="best")
    scores = [s["ppo/evaluation_score"] for s in run.metrics()]
    best = scores.index(max(scores))
    assert best < 11
    again = PPOState(
        model, likes_even, PPOConfig.model_validate({"sampling": {"max_tokens": 6}, "critic": "shared"}), None
    )
    assert float(again.roll_out(PROMPTS[:6], seed=0).scores.mean()) == pytest.approx(max(scores))


def test_the_held_out_score_is_the_one_the_best_is_chosen_by(tmp_path):
    """All score 0 and hardly any ends, so the end rule is what is left."""
    still = {"steps": 1, "shaping": {"end": {"value": 3.0}}, "optimizer": {"learning_rate": 1e-9}}
    (row,) = run_ppo(tmp_path, lambda p, r: torch.zeros(len(r)), **still)[1].metrics()
    assert row["ppo/score"] == 0
    assert row["ppo/evaluation_score"] < -2


def test_to_keep_the_best_the_last_step_is_measured_too(tmp_path):
    for keep, steps in (("best", [2, 3]), ("last", [2])):
        rows = run_ppo(tmp_path, steps=3, evaluate_every=2, keep=keep)[1].metrics()
        assert [row["step"] for row in rows if "ppo/evaluation_score" in row] == steps


def test_a_best_policy_beyond_the_budget_is_said_aloud(tmp_path, capsys):
    """The budget is spent before the first of the regular measurements, so what ends the run is measured."""
    beyond = {"steps": 9, "evaluate_every": 9, "keep": "best", "kl": {"coefficient": 0.0, "budget": 0.005}}
    rows = run_ppo(tmp_path, **beyond)[1].metrics()
    assert 1 < len(rows) < 9
    assert rows[-1]["ppo/evaluation_kl"] > 0.005
    assert "within kl.budget (0.005 nats)" in " ".join(capsys.readouterr().err.split())
    run_ppo(tmp_path, **beyond | {"kl": {"coefficient": 0.0, "budget": 1e6}})
    assert "kl.budget" not in capsys.readouterr().err


def test_the_average_is_the_average(tmp_path):
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    t = PPOState(model, likes_even, PPOConfig(ema=0.9, critic="shared"), None)
    name, p = next(iter(t.policy_weights.items()))
    start = p.detach().clone()
    with torch.no_grad():
        p += 1
    t.average_weights()
    t.average_weights()
    assert torch.allclose(t.average[name], start + (1 - 0.9**2), atol=1e-5)
    t.choose()
    assert torch.allclose(p, start + (1 - 0.9**2), atol=1e-5)


def test_a_sampler_at_another_temperature_is_found_out(tmp_path):
    world = table_world(1.0)
    network = decoder(64, layers=0, width=64, seed=0, std=0.2)
    config = PPOConfig.model_validate(
        {"steps": 1, "batch_size": 2048, "critic": "shared", "sampling": {"max_tokens": 1, "slots": 2048}}
    )
    run = Run.start(tmp_path, "ppo", config)
    model = Model(network, tiny_tokenizer(), "exact")
    with pytest.raises(TrainingError, match="another distribution"):
        ppo(model, world.reward, [[0]], config, run, sampler=ColdSampler(network, -1))


def test_stale_log_probabilities_are_found_out():
    fine = {"log_ratio_square": 1e-10, "surprise": 2.0, "entropy": 2.01, "surprise_excess_square": 1.0}
    check_sampler(fine, 400)
    with pytest.raises(TrainingError, match="stale weights"):
        check_sampler(fine | {"log_ratio_square": 0.04}, 400)
    with pytest.raises(TrainingError, match="entropy"):
        check_sampler(fine | {"surprise": 1.5}, 400)


def test_best_needs_held_out_prompts(tmp_path):
    config = PPOConfig(keep="best")
    with pytest.raises(ConfigError, match="held-out"):
        ppo(
            Model(tiny_decoder(260), tiny_tokenizer(), "t"),
            likes_even,
            PROMPTS,
            config,
            Run.start(tmp_path, "ppo", config),
        )


def test_no_prompts_is_an_error(tmp_path):
    config = PPOConfig()
    with pytest.raises(TrainingError, match="no prompts"):
        ppo(Model(tiny_decoder(260), tiny_tokenizer(), "t"), likes_even, [], config, Run.start(tmp_path, "ppo", config))


def test_reward_heads_start_small_and_value_heads_at_zero():
    heads = torch.cat([Head.reward(99, torch.Generator().manual_seed(s)).weight for s in range(50)])
    assert float(heads.detach().std()) == pytest.approx(1 / math.sqrt(100), rel=0.03)
    assert float(Head.value(7).weight.detach().abs().sum()) == 0


def test_sft_learns_its_demonstrations_and_not_others(tmp_path):
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")

    def example(letter):
        return Example((65, 66, letter, letter, letter, 258), (False, False, True, True, True, True))

    config = SFTConfig(steps=40, batch_size=8, optimizer=OptimizerConfig(learning_rate=1e-2), evaluate_every=40)
    run = Run.start(tmp_path, "sft", config)
    sft(model, [example(97)], config, run, evaluation=[example(97)])
    last = run.metrics()[-1]
    assert run.metrics()[0]["sft/loss"] > 4
    assert last["sft/loss"] < 0.1
    assert last["sft/evaluation_loss"] < 0.1
    other = Run.start(tmp_path, "sft", config)
    sft(model, [example(98)], config, other, evaluation=[example(97)])
    assert other.metrics()[-1]["sft/evaluation_loss"] > 2


def test_sft_without_demonstrations_is_an_error(tmp_path):
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    with pytest.raises(TrainingError, match="no demonstrations"):
        sft(model, [], SFTConfig(), Run.start(tmp_path, "sft", SFTConfig()))
