"""Where the score goes, whose tokens count, and that minibatches lose nothing. The treacherous indices of PPO."""

from types import SimpleNamespace

import pytest
import torch
from exact import ppo_config, token_world

from tutelage.errors import ConfigError
from tutelage.learn.learner import Part
from tutelage.learn.ppo import PPOConfig, minibatch_plan, parts, ppo_loss
from tutelage.learn.ppo_state import PPOState
from tutelage.learn.reward import RewardModel
from tutelage.learn.rollout import EndRule, end_scores, response_batch, token_rewards
from tutelage.learn.vital_signs import rollout_metrics
from tutelage.model.adapters import Top, branch
from tutelage.model.causal import Model
from tutelage.model.heads import Head, Policy, Scorer, common_layers, relink
from tutelage.model.linear import LowCopy
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer


def test_the_score_is_at_the_last_response_token_and_nowhere_else():
    k1 = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    got = token_rewards(k1, torch.tensor([10.0, 20.0]), [2, 3], coefficient=2.0)
    assert torch.allclose(got, torch.tensor([-0.2, 9.6, -0.6, -0.8, 19.0]))


@pytest.mark.parametrize(("kind", "expected"), [("penalty", [1.0, 0.5]), ("fixed", [1.0, -1.5]), ("none", [1.0, 2.0])])
def test_end_rule(kind, expected):
    scores, ended = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
    assert end_scores(scores, ended, EndRule(kind=kind, value=1.5)).tolist() == expected


def state(critic="separate", top=1, compute=torch.float32, **changes):
    tokenizer = tiny_tokenizer()
    base = tiny_decoder(260, layers=3).compute_in(compute)
    scorer = branch(base, Top(layers=top), torch.Generator().manual_seed(1))
    with torch.no_grad():
        scorer.layers[-1].down.weight.mul_(1.5)  # a reward model that has been trained
    reward = RewardModel(Scorer(scorer, Head.reward(32, torch.Generator().manual_seed(2))), tokenizer, 0.5, 2.0)
    config = PPOConfig.model_validate(
        {"batch_size": 6, "epochs": 2, "minibatches": 2, "train": Top(layers=top), "critic": critic,
         "sampling": {"max_tokens": 5}} | changes
    )  # fmt: skip
    return PPOState(Model(base, tokenizer, "tiny"), reward, config, None)


PROMPTS = [[5, 6, 7], [8], [9, 10], [11, 12, 13, 14], [15], [16, 17]]


def awake(t):
    """The state with a value head that has left its zeros, which hide what a critic reads and keep it from learning."""
    with torch.no_grad():
        t.actor.head.weight.fill_(0.1)
    return t


@pytest.mark.parametrize("critic", ["separate", "shared", "features"])
def test_a_rollout_says_what_each_network_says_alone(critic):
    t = state(critic)
    assert t.shared == 2  # the lower layers are run once for all
    assert not t.actor.head.weight.any()  # value heads start at zero
    own = {"separate": t.actor.critic, "shared": t.actor.policy.decoder, "features": t.nets.reward.scorer.decoder}
    rollout = awake(t).roll_out(PROMPTS, seed=3)
    for i, sequence in enumerate(rollout.sequences):
        alone = response_batch([sequence], [rollout.prompt_lengths[i]])
        rows = slice(sum(rollout.response_lengths[:i]), sum(rollout.response_lengths[: i + 1]))
        with torch.no_grad():
            reference = Policy(t.nets.reference.decoder)(alone).logprob
            raw = t.nets.reward.scorer(alone.packed, alone.packed.last).score
            value = t.actor.head(own[critic](alone.packed, rows=alone.index))
        assert torch.allclose(rollout.reference[rows], reference, atol=1e-5)
        assert torch.allclose(rollout.old[rows], reference, atol=1e-5)  # before training, policy and reference agree
        assert rollout.scores[i] == pytest.approx(float((raw - 0.5) / 2.0), abs=1e-5)
        assert torch.allclose(rollout.values[rows], value, atol=1e-5)
    assert torch.allclose(rollout.sequence_kl, torch.zeros(6), atol=1e-5)


@pytest.mark.parametrize("critic", ["separate", "shared", "features"])
def test_the_first_minibatch_has_ratio_one_and_clips_nothing(critic):
    t = state(critic)
    rollout = t.roll_out(PROMPTS, seed=3)
    _, logged = ppo_loss(t.actor, rollout.take(range(6)), t.config, t.shared)
    units = len(rollout.old)
    assert float(logged["ratio"] / units) == pytest.approx(1, abs=1e-5)
    assert float(logged["clip_fraction"]) == 0
    assert float(logged["log_ratio_square"] / units) < 1e-10


def test_in_bf16_sampler_and_trainer_agree_to_a_hundredth_of_a_nat():
    t = state(compute=torch.bfloat16)
    rollout = t.roll_out(PROMPTS, seed=3)
    _, logged = ppo_loss(t.actor, rollout.take(range(6)), t.config, t.shared)
    assert 0 < float(logged["log_ratio_square"] / len(rollout.old)) ** 0.5 < 0.02
    assert all(p.dtype == torch.float32 for p in t.policy_weights.values())


def test_between_rollouts_only_the_actors_copies_stay(monkeypatch):
    """The rest is memory that training could have; what is shared with the actor is the actor's."""
    t = state(compute=torch.bfloat16)
    kept = lambda decoder: [layer.down._low._kept is not None for layer in decoder.layers]  # noqa: E731
    first = t.roll_out(PROMPTS, seed=3)
    assert kept(t.nets.reference.decoder) == kept(t.nets.reward.scorer.decoder) == [True, True, False]
    assert kept(t.actor.policy.decoder) == kept(t.actor.critic) == [True] * 3
    assert t.nets.reference._low._kept is None
    monkeypatch.setattr(LowCopy, "forget", lambda _: None)
    for _ in range(2):  # with new copies, and with those that stayed
        again = t.roll_out(PROMPTS, seed=3)
        assert torch.equal(again.reference, first.reference)
        assert torch.equal(again.scores, first.scores)
    assert kept(t.nets.reference.decoder) == [True] * 3


def test_minibatches_hold_the_rows_of_their_sequences():
    t = awake(state("features"))
    rollout = t.roll_out(PROMPTS, seed=3)
    chosen = [4, 1]
    part = rollout.take(chosen)
    lengths = rollout.response_lengths
    starts = [sum(lengths[:i]) for i in range(6)]
    rows = [r for i in chosen for r in range(starts[i], starts[i] + lengths[i])]
    assert part.old.tolist() == rollout.old[rows].tolist()
    assert part.returns.tolist() == rollout.returns[rows].tolist()
    assert torch.equal(part.features, rollout.features[rows])
    assert torch.equal(part.values, rollout.values[rows])
    whole = [len(s) for s in rollout.sequences]
    tokens = [r for i in chosen for r in range(sum(whole[:i]), sum(whole[: i + 1]))]
    assert torch.equal(part.hidden, rollout.hidden[tokens])
    assert part.batch.target.tolist() == [t for i in chosen for t in rollout.sequences[i][rollout.prompt_lengths[i] :]]


def test_micro_batches_do_not_change_the_rollout():
    one, other = state(micro_tokens=10_000).roll_out(PROMPTS, seed=3), state(micro_tokens=5).roll_out(PROMPTS, seed=3)
    assert one.sequences == other.sequences
    assert torch.allclose(one.advantages, other.advantages, atol=1e-5)
    assert torch.allclose(one.hidden, other.hidden, atol=1e-5)


def test_every_epoch_reads_every_episode_once():
    config = PPOConfig(batch_size=6, epochs=3, minibatches=2)
    plan = minibatch_plan(config, step=4)
    assert len(plan) == 6
    for epoch in range(3):
        assert sorted(plan[2 * epoch] + plan[2 * epoch + 1]) == list(range(6))
    assert minibatch_plan(config, step=5) != plan


def test_kl_of_a_response_is_the_sum_of_its_tokens():
    world = token_world(1.0)
    t = PPOState(
        Model(world.reference, SimpleNamespace(end=4), "exact"), world.reward,
        ppo_config(1.0, batch_size=64, sampling={"max_tokens": 4}), None,
    )  # fmt: skip
    with torch.no_grad():
        t.actor.policy.decoder.lm_head.weight += 0.1 * torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    rollout = t.roll_out([world.prompt] * 4096, seed=1)
    policy, reference = world.logprobs(t.actor.policy.decoder), world.base
    exact = float((policy.exp() * (policy - reference)).sum())
    assert exact > 0.01
    assert float(rollout.sequence_kl.mean()) == pytest.approx(exact, abs=4 * float(rollout.sequence_kl.std()) / 64)
    assert rollout_metrics(rollout, 1.0)["kl"] == pytest.approx(float(rollout.sequence_kl.mean()))


def test_features_need_a_reward_model():
    world = token_world(1.0)
    with pytest.raises(ConfigError, match="features"):
        PPOState(Model(world.reference, tiny_tokenizer(), "x"), world.reward, ppo_config(1.0, critic="features"), None)


@pytest.mark.parametrize("bad", [{"sampling": {"top_k": 50}}, {"sampling": {"top_p": 0.9}}, {"minibatches": 5}])
def test_settings_that_would_train_another_policy_are_refused(bad):
    with pytest.raises(ValueError, match=r"sampled|multiple"):
        PPOConfig.model_validate({"batch_size": 6} | bad)


def test_what_a_checkpoint_holds_goes_where_the_weights_are():
    """A checkpoint is read onto the CPU. On CUDA the average once stayed there, and so did the features."""
    t = state("features", ema=0.9)
    t.rollout, t.best = t.roll_out(PROMPTS, seed=3), (1.0, t.copy())
    saved = t.save()
    t.policy_weights = {name: p.detach().to("meta") for name, p in t.policy_weights.items()}
    t.load(saved)
    kept = [*t.average.values(), *t.best[1].values(), t.rollout.hidden, t.rollout.features]
    assert {tensor.device.type for tensor in kept} == {"meta"}
    assert {tensor.device.type for tensor in (t.rollout.old, t.rollout.scores, t.rollout.returns)} == {"cpu"}


def test_networks_from_two_folders_share_what_is_equal():
    a, b = tiny_decoder(260, layers=3), tiny_decoder(260, layers=3)
    with torch.no_grad():
        b.layers[2].out.weight += 1
    assert common_layers(a, b) == 0
    assert relink(b, a) == 2
    assert b.layers[1] is a.layers[1]
    assert b.layers[2] is not a.layers[2]


def test_a_critic_gone_through_after_the_policy_gets_the_same_gradients():
    found = []
    for apart in (False, True):
        t = awake(state("separate"))
        minibatch = t.roll_out(PROMPTS, seed=3).take(range(6))
        both = [Part([minibatch], lambda m, t=t: ppo_loss(t.actor, m, t.config, t.shared))]
        for part in parts(t, [minibatch]) if apart else both:
            loss, _ = part.loss(minibatch)
            (loss * part.weight).backward()
        found.append({name: p.grad for name, p in t.learner.parameters.items()})
    assert len(parts(t, [minibatch])) == 2
    for name, slope in found[0].items():
        assert torch.equal(slope, found[1][name]), name
        assert float(slope.abs().sum()) > 0
