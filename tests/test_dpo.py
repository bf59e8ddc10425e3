"""DPO and its kin against exact answers: O2's table, O4 for rankings, the gradient, and what must change nothing."""

import math

import numpy as np
import pytest
import torch
from exact import table_world
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_worlds import (
    SKEWED,
    TABLE,
    WORLD,
    Table,
    counted,
    draw_pairs,
    fit,
    fit_table,
    kl_to_optimum,
    population,
    sampled,
    tasteful,
    unbeaten,
    with_pairs,
)
from ranking_worlds import bradley_terry_estimate, draw, one_of_each, plackett_luce_estimate, squared_errors, wins_in

from tutelage.errors import TrainingError
from tutelage.learn.dpo import DPOConfig, DPOState, dpo
from tutelage.learn.kto import Judged, Opinion, Opinions, kto_loss, opinions, rated, reference_point, split
from tutelage.learn.preference import MEANS_OVER, Preference, Preferences, best, means, preference, preference_loss
from tutelage.learn.preference_losses import (
    DPO,
    IPO,
    KTO,
    ORPO,
    Conservative,
    LengthNormalised,
    PlackettLuce,
    Robust,
    SimPO,
    implicit_reward,
    log_odds,
    pair_losses,
)
from tutelage.learn.reference import completion_logprobs
from tutelage.learn.reward import Ranking
from tutelage.model.causal import Model
from tutelage.model.heads import Policy
from tutelage.model.tiny import tiny_decoder, tiny_tokenizer
from tutelage.records import Annotator, Comparison, Completion, Prompt, Rating, Source
from tutelage.runs import Run
from tutelage.settings import leaves

WHO = Annotator(id="ann", kind="human", name="Ann")
PAIR_KINDS = [DPO(), Conservative(), Robust(), IPO(), LengthNormalised(), SimPO()]
ALL_KINDS = [*PAIR_KINDS, PlackettLuce(), ORPO(), KTO()]


def name(loss):
    return loss.kind


def one(value):
    return torch.tensor([float(value)])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# ---- O2: the table


def test_o2_the_population_loss_has_the_optimum_of_rl():
    """For a real decoder; and for the bare table that the tests below train."""
    policy, logged = fit(population(), DPO(beta=1.0), steps=120)
    assert logged[0]["dpo/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert WORLD.kl_to_optimum(WORLD.reference) > 0.15
    assert WORLD.kl_to_optimum(policy) <= 1e-6
    assert kl_to_optimum(fit_table(population(), DPO(beta=1.0))[0]) <= 1e-5
    half, _ = fit_table(population(), DPO(beta=2.0))
    assert kl_to_optimum(half) > 0.02  # another β has another optimum


@pytest.mark.parametrize(("count", "low", "high"), [(10_000, 0.004, 0.02), (100_000, 0.0003, 0.004)])
def test_o2_sampled_pairs_come_near_it(count, low, high):
    ratio, logged = fit_table(sampled(count, seed=0), DPO(beta=1.0))
    assert low < kl_to_optimum(ratio) < high
    assert not any(row["dpo/runaway"] for row in logged)


def test_o2_a_thousand_pairs_diverge_where_a_response_never_lost():
    """Whoever never lost takes all: KL(π ‖ π*) goes to −log π*(it), 7.13 where a rare response won its four pairs.

    That limit is O2's figure for a thousand pairs (7.35 with its own reference). Only the number of steps keeps a run
    from it, and the margin grows with each.
    """
    pairs = draw_pairs(1000, 97, SKEWED)
    (champion,) = unbeaten(*pairs)
    limit = -float(torch.log_softmax(SKEWED + WORLD.rewards, 0)[champion])
    assert limit == pytest.approx(7.132, abs=1e-3)
    data = counted(*pairs, SKEWED)
    ratio, logged = fit_table(data, DPO(beta=1.0), steps=300, rate=2.0, schedule="constant", runaway=8)
    assert kl_to_optimum(ratio, SKEWED) == pytest.approx(limit, abs=0.01)
    assert int(ratio.argmax()) == champion
    assert logged[0]["dpo/runaway"] == 0 < logged[-1]["dpo/runaway"] < 0.05
    held, logged = fit_table(data, IPO(tau=0.5), rate=0.3, runaway=8)  # a loss that has a minimum there
    assert kl_to_optimum(held, SKEWED) < 0.5
    assert logged[-1]["dpo/runaway"] == 0
    beaten, _ = fit_table(sampled(1000, seed=0), DPO(beta=1.0))
    assert unbeaten(*draw_pairs(1000, 0)) == []
    assert kl_to_optimum(beaten) < 0.2


def test_o2_through_the_whole_loop_a_thousand_pairs_warn_once(tmp_path):
    world = table_world(1.0)
    rows = zip(*(x.tolist() for x in draw_pairs(1000, seed=29)), strict=True)
    items = [Preference(Ranking(((0, won), (0, lost)), (1, 2), None, None), 1) for won, lost in rows]
    settings = {
        "steps": 100, "batch_size": 64, "loss": DPO(beta=1.0), "evaluate_every": 0, "runaway": 6.0, "chosen_drop": 50,
        "optimizer": {"learning_rate": 0.05, "schedule": "constant", "max_grad_norm": 1e9},
    }  # fmt: skip
    config = DPOConfig.model_validate(settings)
    run = Run.start(tmp_path, "dpo", config)
    with pytest.warns(UserWarning, match="run away") as caught:
        dpo(Model(world.reference, tiny_tokenizer(), "table"), items, config, run)
    assert len(caught) == 1
    assert run.metrics()[0]["dpo/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert run.metrics()[0]["dpo/runaway"] == 0


def test_the_gradient_of_a_pair_is_weighted_by_how_wrong_it_is():
    """∇ = −β σ(r_l − r_w) [∇ log π(w) − ∇ log π(l)] (Rafailov et al. 2023, section 4)."""
    logprob = torch.tensor([-3.0, -2.0], requires_grad=True)
    reference = torch.tensor([-2.5, -3.5])
    reward = implicit_reward(DPO(beta=0.7), logprob, reference, torch.ones(2))
    pair_losses(DPO(beta=0.7), (reward[0] - reward[1])[None], one(1)).sum().backward()
    weight = 0.7 * sigmoid(float((reward[1] - reward[0]).detach()))
    assert float(reward[0].detach()) == pytest.approx(0.7 * -0.5)
    assert logprob.grad.tolist() == pytest.approx([-weight, weight], abs=1e-6)
    assert weight > 0.7 / 2  # ordered wrongly, so more than half


def test_ipo_stops_at_a_gap_of_one_over_two_tau():
    ratio, _ = fit_table(with_pairs(torch.tensor([3]), torch.tensor([7]), one(1), one(1)), IPO(tau=0.4))
    assert float(ratio[3] - ratio[7]) == pytest.approx(1 / (2 * 0.4), abs=1e-3)


def test_the_conservative_optimum_is_the_odds_of_the_label():
    pair = with_pairs(torch.tensor([3]), torch.tensor([7]), one(1), one(1))
    ratio, _ = fit_table(pair, Conservative(beta=0.5, label_noise=0.2), steps=300)
    h = float(ratio[3] - ratio[7])
    assert sigmoid(0.5 * h) == pytest.approx(0.8, abs=1e-3)


def test_robust_is_unbiased_under_flips():
    """What it gives on labels flipped at rate e has the mean that DPO has on the true ones."""
    margin, e = torch.tensor([-1.3, 0.4, 2.0]), 0.15
    true, flipped = torch.ones(3), torch.zeros(3)
    robust = Robust(label_noise=e)
    mean = (1 - e) * pair_losses(robust, margin, true) + e * pair_losses(robust, margin, flipped)
    assert torch.allclose(mean, pair_losses(DPO(), margin, true), atol=1e-6)


# ---- each loss as a student would write it


def test_pairs_are_what_the_papers_say():
    m = 0.6
    nll = lambda x: math.log1p(math.exp(-x))  # noqa: E731
    said = {
        DPO(): nll(m),
        Conservative(label_noise=0.1): 0.9 * nll(m) + 0.1 * nll(-m),
        Robust(label_noise=0.1): (0.9 * nll(m) - 0.1 * nll(-m)) / 0.8,
        IPO(tau=0.2): (m / 0.2 - 1 / 0.4) ** 2,
        LengthNormalised(): nll(m),
        SimPO(margin=0.5): nll(m - 0.5),
    }
    for loss, expected in said.items():
        assert float(pair_losses(loss, one(m), one(1))) == pytest.approx(expected, abs=1e-5), loss.kind


def test_implicit_rewards_are_what_the_papers_say():
    logprob, reference, tokens = one(-6), one(-4), one(3)
    odds = lambda p: p / (1 - p)  # noqa: E731
    said = {
        DPO(beta=0.5): 0.5 * -2,
        PlackettLuce(beta=0.5): 0.5 * -2,
        IPO(tau=0.2): 0.2 * -2,
        IPO(tau=0.2, per_token=True): 0.2 * -2 / 3,
        LengthNormalised(beta=5): 5 * -2 / 3,
        SimPO(beta=2): 2 * -6 / 3,
        ORPO(): math.log(odds(math.exp(-2))),
    }
    for loss, expected in said.items():
        assert float(implicit_reward(loss, logprob, reference, tokens)) == pytest.approx(expected, abs=1e-5), loss.kind
    p = torch.tensor([1e-4, 0.3, 0.5, 0.9, 0.9999], dtype=torch.float64)
    assert torch.allclose(log_odds(p.log()), (p / (1 - p)).log(), atol=1e-9)
    assert torch.isfinite(log_odds(torch.zeros(1)))


@pytest.mark.parametrize("loss", PAIR_KINDS, ids=name)
def test_swapping_a_pair_and_its_target_changes_nothing_and_a_tie_pulls_to_the_middle(loss):
    margin = torch.tensor([0.9, -0.2], requires_grad=True)
    there = pair_losses(loss, margin, torch.tensor([0.7, 0.2]))
    back = pair_losses(loss, -margin, torch.tensor([0.3, 0.8]))
    assert torch.allclose(there, back, atol=1e-6)
    zero = torch.zeros(1, requires_grad=True)
    pair_losses(loss, zero, one(0.5)).sum().backward()
    assert zero.grad.tolist() == pytest.approx([0], abs=1e-6)
    pair_losses(loss, margin, torch.full((2,), 0.5)).sum().backward()
    assert margin.grad[0] > 0 > margin.grad[1]


def batch_loss(items, loss, micro=10_000, order=None, **extra):
    """One update's figures, with the gradient's norm, on a tiny policy away from its reference."""
    items = [items[i] for i in order] if order is not None else items
    model = Model(tiny_decoder(260, seed=1), tiny_tokenizer(), "tiny")
    settings = {"loss": loss, "micro_tokens": micro, "runaway": 1e6, "chosen_drop": 1e6}
    t = DPOState(model, DPOConfig.model_validate(settings | {"optimizer": {"max_grad_norm": 1e9}} | extra))
    reference = completion_logprobs(Policy(tiny_decoder(260, seed=2)), items, 10_000)
    return t.update(items, reference)


def few(loss, k=3):
    """Some items of the kind the loss reads: rankings of several lengths, a tie, a soft target."""
    rows = tasteful(count=5, k=k)
    ranking = Ranking(((10, 97), (10, 98, 99, 100)), (1, 1), None, None)
    soft = Ranking(((10, 11, 99, 97), (10, 11, 100)), (1, 2), 0.3, None)
    rows += [Preference(ranking, 1), Preference(soft, 2)]
    return opinions([o for p in rows for o in split(p)], 0, 100) if isinstance(loss, KTO) else rows


@pytest.mark.parametrize("loss", ALL_KINDS, ids=name)
def test_packing_order_and_micro_batches_change_nothing(loss):
    items = few(loss)
    whole = batch_loss(items, loss, sft_weight=0.3)
    for micro, order in ((1, None), (60, range(len(items))[::-1])):
        other = batch_loss(items, loss, micro, order, sft_weight=0.3)
        assert other.keys() == whole.keys()
        for key, value in whole.items():
            assert other[key] == pytest.approx(value, rel=2e-4, abs=2e-5), key


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(3)), st.sampled_from([k for k in ALL_KINDS if not isinstance(k, KTO)]))
def test_the_order_of_the_completions_changes_nothing(order, loss):
    rows = tasteful(count=2, k=3)
    turned = [
        Preference(
            Ranking(tuple(p.sequences[i] for i in order), tuple(p.ranking.ranks[i] for i in order), None, None), 1
        )
        for p in rows
    ]
    there, back = batch_loss(rows, loss), batch_loss(turned, loss)
    assert back["dpo/loss"] == pytest.approx(there["dpo/loss"], rel=1e-5)
    assert back["dpo/grad_norm"] == pytest.approx(there["dpo/grad_norm"], rel=1e-4)


def test_a_prompt_weighs_one_whatever_it_has():
    three, two = tasteful(count=1, k=3), tasteful(count=1, k=2, seed=5)
    both = batch_loss([*three, *two], DPO(beta=1.0))["dpo/loss"]
    alone = [batch_loss(items, DPO(beta=1.0))["dpo/loss"] for items in (three, two)]
    assert both == pytest.approx(sum(alone) / 2, abs=1e-5)


def test_the_likelihood_term_is_the_bests_mean_per_token():
    items = [Preference(Ranking(((10, 97, 98, 99), (10, 100)), (1, 2), None, None), 1)]
    plain, mixed = batch_loss(items, DPO()), batch_loss(items, DPO(), sft_weight=0.5)
    (own,) = completion_logprobs(Policy(tiny_decoder(260, seed=1)), items, 1000)
    assert mixed["dpo/nll"] == pytest.approx(-float(own[0]) / 3, abs=1e-5)
    assert mixed["dpo/loss"] == pytest.approx(plain["dpo/loss"] + 0.5 * mixed["dpo/nll"], abs=1e-5)
    assert best(Ranking(((1,), (2,), (3,)), (1, 1, 2), None, None)).tolist() == [0.5, 0.5, 0]
    assert best(Ranking(((1,), (2,)), (2, 1), 0.25, None)).tolist() == [0.25, 0.75]


def test_figures_are_those_of_the_pairs():
    items = [Preference(Ranking(((10, 97, 98), (10, 100)), (2, 1), None, None), 1)]
    found = batch_loss(items, DPO(beta=2.0))
    (own,) = completion_logprobs(Policy(tiny_decoder(260, seed=1)), items, 1000)
    (ref,) = completion_logprobs(Policy(tiny_decoder(260, seed=2)), items, 1000)
    lost, won = (2 * (own - ref)).tolist()
    said = {
        "dpo/reward_chosen": won, "dpo/reward_rejected": lost, "dpo/margin": won - lost,
        "dpo/accuracy": float(won > lost), "dpo/logprob_chosen": float(own[1]), "dpo/logprob_rejected": float(own[0]),
        "dpo/tokens_chosen": 1, "dpo/tokens_rejected": 2, "dpo/chosen_shift": won / 2,
        "dpo/kl": -(won + lost) / 4, "dpo/runaway": 0,
    }  # fmt: skip
    assert {key: found[key] for key in said} == pytest.approx(said, abs=1e-5)
    tied = batch_loss([Preference(Ranking(((10, 97), (10, 98)), (1, 1), None, None), 1)], DPO())
    assert "dpo/accuracy" not in tied
    assert "dpo/loss" in tied


def nothing_written(ranks):
    """A pair of which one was cut before its first token."""
    return Preference(Ranking(((10,), (10, 97, 98)), ranks, None, None), 1)


@pytest.mark.parametrize("loss", [*ALL_KINDS, IPO(per_token=True)], ids=name)
@pytest.mark.parametrize("sft_weight", [0.0, 0.3])
def test_a_completion_without_a_token_is_no_division_by_zero(loss, sft_weight):
    rows = [nothing_written((1, 2)), nothing_written((2, 1))]
    items = opinions([o for p in rows for o in split(p)], 0, 100) if isinstance(loss, KTO) else rows
    assert all(math.isfinite(value) for value in batch_loss(items, loss, sft_weight=sft_weight).values())


@pytest.mark.parametrize("loss", [*PAIR_KINDS, IPO(per_token=True)], ids=name)
def test_a_pair_of_which_one_has_no_token_weighs_nothing(loss):
    rows = tasteful(count=1)
    alone, beside = batch_loss(rows, loss), batch_loss([*rows, nothing_written((2, 1))], loss)
    for key in ("dpo/loss", "dpo/grad_norm"):
        assert beside[key] == pytest.approx(alone[key] / 2, rel=1e-4)  # of two prompts
    assert beside["dpo/margin"] == pytest.approx(alone["dpo/margin"], rel=1e-4)


# ---- O4: rankings


def test_o4_two_items_are_dpo_to_machine_precision():
    items = tasteful(count=6, k=2)
    items = [p for p in items if p.decides] + [few(DPO())[-1]]  # with a soft target among them
    pairs, ranking = batch_loss(items, DPO(beta=0.8)), batch_loss(items, PlackettLuce(beta=0.8))
    assert ranking["dpo/loss"] == pytest.approx(pairs["dpo/loss"], abs=1e-6)
    assert ranking["dpo/grad_norm"] == pytest.approx(pairs["dpo/grad_norm"], rel=1e-5)


def test_o4_whole_rankings_fit_better_than_all_pairs_and_those_than_one():
    """Of means over seeds: one draw of a thousand rankings orders the first two rightly in 6 of 10 cases.

    The estimates are Newton's; that they are where the production losses have their minimum is checked on one draw.
    """
    errors = np.array([squared_errors(seed) for seed in range(60)])
    ranking, pairs, one = np.sqrt(errors.mean(0))
    assert ranking < pairs < one / 2
    better = errors[:, 1] - errors[:, 0]
    assert better.mean() > 2 * better.std(ddof=1) / len(better) ** 0.5
    assert not (better > 0).all()
    assert ranking < 0.06

    _, order = draw(0)
    two = one_of_each(order, 0)
    estimates = [
        (PlackettLuce(beta=1.0), order, plackett_luce_estimate(order)),
        (DPO(beta=1.0), order, bradley_terry_estimate(wins_in(order))),
        (DPO(beta=1.0), two, bradley_terry_estimate(wins_in(two))),
    ]
    for loss, rows, scores in estimates:
        assert slope_at(loss, rows, scores) < 1e-3 * slope_at(loss, rows, np.zeros(6))


def slope_at(loss, rows, scores):
    """The norm of the production loss's gradient on rankings, best first, where the implicit rewards are these."""
    ranks = tuple(range(1, rows.shape[1] + 1))
    items = [Preference(Ranking(tuple((0, i) for i in row), ranks, None, None), 1) for row in rows.tolist()]
    uniform = torch.full((6,), -math.log(6.0))
    table = Table(uniform + torch.tensor(scores, dtype=torch.float32))
    data = Preferences.of(items, completion_logprobs(Table(uniform), items, 10**6))
    preference_loss(table, data, loss, sft_weight=0.0, runaway=99)[0].backward()
    return float(table.logits.grad.norm())


# ---- KTO


def test_kto_is_what_the_paper_says():
    judged = [Judged((10, 97, 98), 1, 1.0), Judged((11, 99), 1, 0.0), Judged((12, 100), 1, 0.25)]
    items = opinions(judged, 0, 100)
    found = batch_loss(items, KTO(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0))
    own = torch.stack(completion_logprobs(Policy(tiny_decoder(260, seed=1)), items, 1000))
    ref = torch.stack(completion_logprobs(Policy(tiny_decoder(260, seed=2)), items, 1000))
    change = (own - ref).tolist()
    z = max(0.0, sum(c[1] for c in change) / 3)
    expected = 0.0
    for (mine, _), one_of in zip(change, judged, strict=True):
        d = one_of.desirable
        expected += d * 2 * (1 - sigmoid(0.5 * (mine - z))) + (1 - d) * 3 * (1 - sigmoid(0.5 * (z - mine)))
    assert found["dpo/loss"] == pytest.approx(expected / 3, abs=1e-5)
    assert found["dpo/reference_point"] == pytest.approx(z, abs=1e-4)
    assert found["dpo/reward_chosen"] == pytest.approx(0.5 * change[0][0], abs=1e-4)
    assert found["dpo/tokens_rejected"] == 1


def test_ktos_reference_point_is_never_negative_and_has_no_gradient():
    items = opinions([Judged((10, 97), 1, 1.0), Judged((11, 98), 1, 0.0)], 0, 10)
    policy = Policy(tiny_decoder(260))
    high, low = ([torch.tensor([0.0, x])] * 2 for x in (100.0, -100.0))
    assert reference_point(policy, [Opinions.of(items, high)]) == 0
    point = reference_point(policy, [Opinions.of(items, low)])
    assert point > 80
    loss, _ = kto_loss(policy, Opinions.of(items, low), KTO(), point, sft_weight=0.0, runaway=1e6)
    assert loss.requires_grad


def test_prompts_are_mismatched_with_another_completion():
    rows = [Judged((10 + i, 50 + i, 51), 1, 1.0) for i in range(6)]
    made = opinions(rows, 3, 100)
    assert [o.judged for o in made] == rows
    assert all(o.stranger[0] == o.judged.sequence[0] and o.stranger[1:] != o.judged.sequence[1:] for o in made)
    assert sorted(o.stranger[1:] for o in made) == sorted(r.sequence[1:] for r in rows)
    assert all(len(o.stranger) == 2 for o in opinions(rows, 3, 2))


def test_a_stranger_is_never_of_the_same_prompt():
    """Completions of a prompt lie side by side; in 20 orders of 12 some are neighbours (65 expected)."""
    rows = [Judged((10 + i, 40, 50 + 4 * i + j), 2, 1.0) for i in range(3) for j in range(4)]
    for seed in range(20):
        made = opinions(rows, seed, 100)
        assert all(o.stranger[:2] == o.judged.sequence[:2] for o in made)
        assert all((o.stranger[2] - 50) // 4 != o.stranger[0] - 10 for o in made)


def test_with_one_prompt_the_stranger_is_another_of_its_completions():
    rows = [Judged((10, 50 + i), 1, 1.0) for i in range(5)]
    made = opinions(rows, 0, 100)
    assert sorted(o.stranger for o in made) == [r.sequence for r in rows]
    assert all(o.stranger != o.judged.sequence for o in made)
    assert opinions(rows[:1], 0, 100)[0].stranger == rows[0].sequence


def ranking_of(ranks, target=None):
    return Preference(Ranking(tuple((1, 5 + i) for i in range(len(ranks))), tuple(ranks), target, None), 1)


@pytest.mark.parametrize(
    ("item", "liked"),
    [
        (ranking_of([2, 1]), {6: 1.0, 5: 0.0}),
        (ranking_of([1, 1]), {}),
        (ranking_of([1, 2, 3]), {5: 1.0, 7: 0.0}),
        (ranking_of([1, 2, 2, 4]), {5: 1.0, 8: 0.0}),
        (ranking_of([1, 2], target=0.3), {5: 0.3, 6: 0.7}),
        (ranking_of([1, 2], target=0.5), {}),
    ],
)
def test_rankings_are_split_by_wins_and_losses(item, liked):
    assert {o.sequence[1]: o.desirable for o in split(item)} == pytest.approx(liked)


@pytest.mark.parametrize(("score", "liked"), [(7, [1.0]), (5, [1.0]), (4, []), (3, [0.0]), (1, [0.0])])
def test_ratings_are_liked_above_the_middle(score, liked):
    done = Completion(text="ab", source=Source(model="file"))
    rating = Rating(prompt=Prompt.text("x"), completion=done, score=score, annotator=WHO)
    tokenizer = tiny_tokenizer()
    found = rated(rating, tokenizer, 100)
    whole = (*tokenizer.encode("x"), *tokenizer.encode("ab"), tokenizer.end)
    assert [o.desirable for o in found] == liked
    assert [(o.sequence, o.prompt) for o in found] == [(whole, 1)] * len(liked)


# ---- records, settings, errors


def test_a_comparison_becomes_tokens_with_its_prompt_counted():
    texts = ("ab", "c")
    done = tuple(Completion(text=t, source=Source(model="file")) for t in texts)
    c = Comparison(prompt=Prompt.text("xy"), completions=done, ranks=(2, 1), shown=(0, 1), annotator=WHO)
    made = preference(c, tiny_tokenizer(), 100)
    assert made.prompt == 2
    assert [len(s) for s in made.sequences] == [5, 4]  # with their end tokens
    assert Preferences.of([made], None).lengths.tolist() == [3, 2]


def test_nothing_to_learn_from_is_an_error(tmp_path):
    model = Model(tiny_decoder(260), tiny_tokenizer(), "tiny")
    tied = [ranking_of([1, 1]), ranking_of([1, 2], target=0.5)]
    with pytest.raises(TrainingError, match="none of the 2 rankings"):
        dpo(model, tied, DPOConfig(), Run.start(tmp_path, "dpo", DPOConfig()))
    kto = DPOConfig(loss=KTO())
    with pytest.raises(TrainingError, match="no completion was rated"):
        dpo(model, [], kto, Run.start(tmp_path, "dpo", kto))


def test_a_setting_of_several_kinds_is_one_flag_that_says_whose():
    found = {leaf.key: leaf for leaf in leaves(DPOConfig)}
    assert found["loss.label_noise"].help.endswith("Only of kind conservative, robust.")
    assert "length_normalised: β: implicit reward per nat per token" in found["loss.beta"].help
    assert found["loss.beta"].default == "by kind"
    assert [leaf.key for leaf in leaves(DPOConfig)].count("loss.beta") == 1
    assert set(found["loss.kind"].choices) == {loss.kind for loss in ALL_KINDS}


def test_means_leave_out_what_nothing_says():
    logged = dict.fromkeys([*MEANS_OVER, *MEANS_OVER.values()], 0.0)
    table = means(logged | {"dpo/loss": 1.0})
    assert table == {"dpo/loss": 1.0}
    assert TABLE.units == 1
    assert Opinion(Judged((1, 2), 1, 1.0), (1, 3)).tokens == 4
