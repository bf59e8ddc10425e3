"""What the published reproductions found to matter, a test a rule; more of them in test_rollout and test_ppo."""

import math

import pytest
import torch
from test_ppo import PROMPTS, likes_even
from test_rollout import PROMPTS as SHORT
from test_rollout import state

from tutelage.errors import CheckpointError, TrainingError
from tutelage.learn.learner import Learner, OptimizerConfig, Part
from tutelage.learn.ppo import PPOConfig, ppo
from tutelage.learn.rollout import response_batch
from tutelage.learn.sft import mean_loss
from tutelage.learn.vital_signs import rollout_metrics, step_metrics, warn
from tutelage.model.batch import Batch, Example
from tutelage.model.causal import Model
from tutelage.model.heads import Policy
from tutelage.model.maths import explained_variance, kl_estimates
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.runs import Run


def test_the_defaults_are_the_published_ones():
    c = PPOConfig()
    assert (c.clip, c.value_clip, c.value_weight, c.epochs, c.minibatches) == (0.2, 0.2, 0.1, 4, 1)
    assert (c.shaping.discount, c.shaping.trace, c.shaping.whiten_advantages) == (1.0, 0.95, True)
    assert (c.optimizer.epsilon, c.optimizer.schedule, c.sampling.temperature) == (1e-5, "linear", 1.0)
    assert (c.critic, c.kl.target, c.ema, c.ptx_weight) == ("separate", None, None, 0.0)


def test_all_networks_divide_their_logits_by_the_sampling_temperature():
    t = state(sampling={"max_tokens": 5, "temperature": 0.7})
    rollout = t.roll_out(SHORT, seed=3)
    batch = response_batch(rollout.sequences, rollout.prompt_lengths)
    with torch.no_grad():
        reference = Policy(t.nets.reference.decoder)
        cold, warm = (reference(batch, temperature=temperature).logprob for temperature in (0.7, 1.0))
        new, _, _ = t.actor(rollout.take(range(6)), temperature=0.7, start=t.shared)
    for found in (rollout.old, rollout.reference, new):
        torch.testing.assert_close(found, cold, atol=1e-5, rtol=0)
    assert float((cold - warm).abs().max()) > 0.01


def test_a_separate_critic_starts_from_the_reward_model():
    t = state("separate")
    ours, reward, policy = (
        network.state_dict() for network in (t.actor.critic, t.nets.reward.scorer.decoder, t.actor.policy.decoder)
    )
    assert all(torch.equal(ours[name], reward[name]) for name in ours)
    assert any(not torch.equal(ours[name], policy[name]) for name in ours)


def test_what_is_logged_is_what_it_says():
    t = state("shared")
    rollout = t.roll_out(SHORT, seed=3)
    moved = rollout.old + torch.linspace(-0.3, 0.4, len(rollout.old))
    object.__setattr__(rollout, "reference", moved)
    found, n = rollout_metrics(rollout, 0.1), len(SHORT)
    log_ratio = rollout.old - moved
    assert found["kl"] == pytest.approx(float(log_ratio.sum()) / n, abs=1e-5)
    assert found["kl_k2"] == pytest.approx(float(0.5 * (log_ratio**2).sum()) / n, abs=1e-5)
    assert found["kl_k3"] == pytest.approx(float(kl_estimates(rollout.old, moved).k3.sum()) / n, abs=1e-5)
    assert found["objective"] == pytest.approx(found["score"] - 0.1 * found["kl"], abs=1e-6)
    assert found["response_tokens"] == pytest.approx(sum(rollout.response_lengths) / n)
    assert found["ended"] == pytest.approx(float(rollout.ended.float().mean()))
    first = {
        "ratio": 1.0,
        "ratio_square": 1.0,
        "log_ratio_square": 4e-12,
        "surprise": 1.0,
        "surprise_excess_square": 1.0,
    }
    last = {**first, "ratio": 1.1, "ratio_square": 1.31, "log_ratio_square": 0.25}
    step = step_metrics("x", rollout, 0.1, [first, last])
    assert step["x/ratio"] == pytest.approx(1.05)
    assert step["x/ratio_variance"] == pytest.approx(1.155 - 1.05**2)
    assert (step["x/sampler_gap"], step["x/log_ratio_square"]) == (pytest.approx(2e-6), 0.25)
    assert "x/surprise" not in step


def test_explained_variance_is_one_for_the_truth_and_zero_for_a_constant():
    returns = torch.tensor([1.0, 2.0, 4.0])
    assert float(explained_variance(returns, returns)) == pytest.approx(1)
    assert float(explained_variance(torch.full((3,), 7.0), returns)) == pytest.approx(0)
    assert float(explained_variance(-returns, returns)) == pytest.approx(-3)


@pytest.mark.parametrize(
    ("kl", "score", "said"), [(-0.5, 0.0, "never negative"), (0.5, -3.5, "collapsed to -3.50"), (-0.01, -2.0, "")]
)
def test_a_negative_kl_and_a_collapsed_reward_are_said_aloud(capsys, kl, score, said):
    warn(kl, 0.4, score, 64)
    text = " ".join(capsys.readouterr().err.split())
    assert said in text
    assert bool(text) == bool(said)


def test_the_gradient_norm_is_clipped_and_logged_unclipped():
    def moved(most):
        p = torch.nn.Parameter(torch.zeros(2))
        learner = Learner({"p": p}, OptimizerConfig(max_grad_norm=most, epsilon=1e6, learning_rate=1e6), 1)
        counted = type("Counted", (), {"units": 1})()
        logged = learner.update(Part([counted], lambda b: (p @ torch.tensor([30.0, 40.0]), {})))
        return float(p.detach().norm()), logged["grad_norm"]

    assert moved(1e9) == (pytest.approx(50, rel=1e-3), pytest.approx(50))
    assert moved(5.0) == (pytest.approx(5, rel=1e-3), pytest.approx(50))


def test_a_batch_in_which_nothing_is_trained_is_refused():
    with pytest.raises(ValueError, match="no token of this batch is trained"):
        Batch.of([Example((5, 6, 7), (False, False, False))])


def test_an_example_that_says_of_other_tokens_whether_to_train_is_refused():
    """As when a sequence is cut inside its prompt: then the masks of all that follow would be of other tokens."""
    with pytest.raises(ValueError, match="2 tokens, but says of 3"):
        Batch.of([Example((5, 6), (False, True, True)), Example((7, 8, 9), (False, False, True))])


def test_ptx_keeps_what_ppo_would_forget(tmp_path):
    """Demonstrations of odd letters against a reward for even ones: mixed in, they stay likelier."""
    ptx = [Example((65, 66, *[97] * 5, 258), (False, False, *[True] * 6))]
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    losses = []
    for weight in (0.0, 1.0):
        config = PPOConfig.model_validate(
            {"steps": 8, "batch_size": 16, "epochs": 2, "critic": "shared", "sampling": {"max_tokens": 6},
             "optimizer": {"learning_rate": 1e-2}, "evaluate_every": 0, "ptx_weight": weight, "ptx_batch": 1,
             "shaping": {"end": {"kind": "none"}}}
        )  # fmt: skip
        run = Run.start(tmp_path, "ppo", config)
        tuned = ppo(model, likes_even, PROMPTS, config, run, ptx=ptx)
        losses.append(mean_loss(Policy(tuned.decoder), ptx, 99))
        assert ("sft/loss" in run.metrics()[0]) == (weight > 0)
    assert losses[1] < 1
    assert losses[0] > 4


def test_a_reward_that_is_not_a_number_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    calls = [0]

    def breaks(prompts, responses):
        calls[0] += 1
        return likes_even(prompts, responses) * (math.nan if calls[0] == 3 else 1)

    config = PPOConfig.model_validate(
        {"steps": 4, "batch_size": 8, "epochs": 1, "critic": "shared", "sampling": {"max_tokens": 4},
         "save_every": 1, "evaluate_every": 0, "optimizer": {"learning_rate": 1e-2}}
    )  # fmt: skip
    run = Run.start(tmp_path, "ppo", config)
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    with pytest.raises(TrainingError, match="nan"):
        ppo(model, breaks, PROMPTS, config, run)
    step, saved, _ = run.restore()
    assert step == 2
    assert all(bool(torch.isfinite(w).all()) for w in saved["learner"]["weights"].values())
    assert len(ppo(model, likes_even, PROMPTS, config, Run.open(run.path)).decoder.state_dict()) > 0
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4]


def test_another_reward_or_another_scale_is_refused_on_resuming():
    t = state()
    saved = t.save()
    t.load(saved)
    for change in ("mean", "weight"):
        other = state()
        with torch.no_grad():
            if change == "mean":
                other.nets.reward.mean += 1e-3
            else:
                other.nets.reward.scorer.head.weight[0, 0] += 1e-3
        other.judged_by = other.nets.reward.identity()
        with pytest.raises(CheckpointError, match=r"this run.s reward \(weights, mean, deviation\) is"):
            other.load(saved)
