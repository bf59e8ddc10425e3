"""Every clever function beside the loop a student would write, and the exact points of O4 and O9."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.model import maths


def naive_gae(rewards, values, lengths, discount, trace):
    out, at = [], 0
    for n in lengths:
        r, v = rewards[at : at + n], values[at : at + n]
        for t in range(n):
            total = 0.0
            for k in range(t, n):
                following = v[k + 1] if k + 1 < n else 0.0
                total += (discount * trace) ** (k - t) * float(r[k] + discount * following - v[k])
            out.append(total)
        at += n
    return torch.tensor(out)


lengths_of = st.lists(st.integers(1, 7), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(lengths_of, st.floats(0.5, 1), st.floats(0, 1), st.integers(0, 99))
def test_gae_equals_the_double_loop(lengths, discount, trace, seed):
    g = torch.Generator().manual_seed(seed)
    r, v = torch.randn(sum(lengths), generator=g), torch.randn(sum(lengths), generator=g)
    got = maths.gae(r, v, lengths, discount=discount, trace=trace)
    assert torch.allclose(got, naive_gae(r, v, lengths, discount, trace), atol=1e-5)


def test_gae_at_its_two_ends():
    r, v = torch.tensor([1.0, 2.0, 4.0, 10.0]), torch.tensor([0.5, 1.0, 2.0, 3.0])
    returns = torch.tensor([7.0, 6.0, 4.0, 10.0])
    assert torch.allclose(maths.gae(r, v, [3, 1], discount=1.0, trace=1.0), returns - v)
    td = torch.tensor([1 + 1.0 - 0.5, 2 + 2.0 - 1.0, 4 - 2.0, 10 - 3.0])
    assert torch.allclose(maths.gae(r, v, [3, 1], discount=1.0, trace=0.0), td)


def full_logprobs(hidden, weight, target, temperature):
    logp = torch.log_softmax(hidden @ weight.T / temperature, -1)
    return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("frozen_head", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_token_logprobs_and_gradients_equal_the_full_softmax(frozen_head, temperature, monkeypatch):
    monkeypatch.setattr(maths, "ROWS_AT_ONCE", 4)  # tiles are crossed both ways, and the last ones are smaller
    monkeypatch.setattr(maths, "WORDS_AT_ONCE", 15)
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 8, generator=g, requires_grad=True)
    weight = torch.randn(50, 8, generator=g, requires_grad=not frozen_head)
    target = torch.randint(0, 50, (11,), generator=g)
    push = torch.randn(11, generator=g)
    want, entropy = full_logprobs(hidden, weight, target, temperature)
    expected = torch.autograd.grad((want * push).sum(), [hidden] if frozen_head else [hidden, weight])
    got = maths.token_logprobs(hidden, weight, target, temperature=temperature)
    found = torch.autograd.grad((got.logprob * push).sum(), [hidden] if frozen_head else [hidden, weight])
    assert torch.allclose(got.logprob, want, atol=1e-5)
    assert torch.allclose(got.entropy, entropy, atol=1e-5)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_logits_are_never_held_whole(monkeypatch):
    seen = []
    plain = F.linear
    monkeypatch.setattr(maths, "ROWS_AT_ONCE", 10)
    monkeypatch.setattr(maths, "WORDS_AT_ONCE", 30)
    monkeypatch.setattr(maths.F, "linear", lambda *a: seen.append(plain(*a).numel()) or plain(*a))
    maths.token_logprobs(torch.randn(40, 4), torch.randn(100, 4), torch.zeros(40, dtype=torch.int64))
    assert max(seen) <= 300
    assert sum(seen) == 40 * 100


def test_temperature_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        maths.token_logprobs(torch.randn(1, 4), torch.randn(9, 4), torch.zeros(1, dtype=torch.int64), temperature=0)


def test_kl_estimators():
    policy, reference = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.5])
    kl = maths.kl_estimates(policy, reference)
    assert torch.equal(kl.k1, policy - reference)
    assert torch.allclose(kl.k3, (reference - policy).exp() - 1 - (reference - policy))
    assert (kl.k3 >= 0).all()
    assert torch.allclose(kl.k2, 0.5 * (policy - reference) ** 2)


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    exact = float((p * (p / q).log()).sum())
    kl = maths.kl_estimates(p.log(), q.log())
    assert float((p * kl.k1).sum()) == pytest.approx(exact, abs=1e-6)
    assert float((p * kl.k3).sum()) == pytest.approx(exact, abs=1e-6)
    assert abs(float((p * kl.k2).sum()) - exact) > 0.05


def test_whitening():
    x = torch.tensor([1.0, 2.0, 3.0, 6.0])
    white = maths.whiten(x)
    assert float(white.mean()) == pytest.approx(0, abs=1e-6)
    assert float(white.var(correction=0)) == pytest.approx(1, abs=1e-5)
    assert float(maths.whiten(x, shift_mean=False).mean()) == pytest.approx(3, abs=1e-5)


def test_plackett_luce_with_two_is_bradley_terry():
    a, b = torch.tensor([1.3, -0.4], dtype=torch.float64), torch.tensor([1, 2])
    pair = maths.pair_loss(a[0] - a[1], torch.tensor(1.0, dtype=torch.float64))
    assert float(maths.plackett_luce_loss(a, b)) == pytest.approx(float(pair), abs=1e-12)


def test_plackett_luce_probabilities_of_all_rankings_sum_to_one():
    scores = torch.tensor([0.3, -1.0, 0.8, 0.1], dtype=torch.float64)
    total = 0.0
    for order in itertools.permutations(range(4)):
        ranks = torch.tensor([order.index(i) + 1 for i in range(4)])
        total += math.exp(-float(maths.plackett_luce_loss(scores, ranks)))
    assert total == pytest.approx(1, abs=1e-12)


def _fit(loss, dimension):
    x = torch.zeros(dimension, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([x], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        value = loss(x) + 1e-9 * x.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return (x - x.mean()).detach()


def test_o4_plackett_luce_beats_all_pairs_beats_one_pair():
    rng = np.random.default_rng(0)
    errors = {"pl": [], "pairs": [], "one": []}
    for _ in range(8):
        truth = rng.normal(size=6)
        truth -= truth.mean()
        felt = truth + rng.gumbel(size=(1000, 6))
        ranks = torch.tensor((-felt).argsort(1).argsort(1) + 1)
        order = torch.tensor((-felt).argsort(1))

        def pl(x, order=order):
            ranked = x[order]
            return (torch.logcumsumexp(ranked.flip(1), 1).flip(1) - ranked).sum()

        def pairs(x, ranks=ranks, which=None):
            loss = x.new_zeros(())
            for i, j in itertools.combinations(range(6), 2):
                target = (ranks[:, i] < ranks[:, j]).double()
                margin = (x[i] - x[j]).expand(len(ranks))
                keep = slice(None) if which is None else which == (i * 6 + j)
                loss = loss + maths.pair_loss(margin, target)[keep].sum()
            return loss

        choice = [i * 6 + j for i, j in itertools.combinations(range(6), 2)]
        which = torch.tensor(rng.choice(choice, size=1000))
        one = ranks[0]
        twin = sum(float(maths.plackett_luce_loss(torch.tensor(truth), r)) for r in ranks[:5])
        assert float(pl(torch.tensor(truth), order[:5])) == pytest.approx(twin, abs=1e-9)
        assert one.sum() == 21
        for name, loss in (("pl", pl), ("pairs", pairs), ("one", lambda x, w=which: pairs(x, which=w))):
            errors[name].append(float(np.sqrt(((_fit(loss, 6).numpy() - truth) ** 2).mean())))
    rmse = {name: float(np.sqrt(np.mean(np.square(e)))) for name, e in errors.items()}
    assert rmse["pl"] <= rmse["pairs"] * 1.02 <= 0.5 * rmse["one"] * 1.02, rmse
    assert rmse["pl"] < 0.06


def test_ties_share_a_denominator_and_pull_together():
    scores = torch.tensor([1.0, 0.0, -1.0], requires_grad=True)
    maths.plackett_luce_loss(scores, torch.tensor([1, 1, 3])).backward()
    assert scores.grad[0] > 0 > scores.grad[1]  # the tied two move towards each other


def test_clipping_is_pessimistic():
    ratio, advantage = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]), torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    got = maths.clipped_policy_loss(ratio, advantage, 0.2)
    assert torch.allclose(got, torch.tensor([-1.2, 1.5, -0.5, 0.8, -2.2]))


def test_value_clipping_takes_the_larger_error():
    got = maths.clipped_value_loss(torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([2.0]), 0.2)
    assert float(got) == pytest.approx(0.5 * (0.2 - 2.0) ** 2)
