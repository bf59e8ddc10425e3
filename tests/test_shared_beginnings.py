"""A beginning that neighbours share is computed once: the same numbers and gradients as of whole sequences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.learn.dpo import DPOConfig
from tutelage.learn.preference import Preference, Preferences, preference_loss
from tutelage.learn.preference_losses import DPO
from tutelage.learn.reward import Groups, Ranking, RewardConfig, reward_loss
from tutelage.learn.rollout import response_batch
from tutelage.model.batch import Batch, Packed, common, firsts
from tutelage.model.heads import Head, Policy, Scorer
from tutelage.model.tiny import tiny_decoder

ROWS = [(1, 2, 3, 4, 5), (1, 2, 3, 6), (1, 2, 3, 6), (7,), (1, 2), (1, 2, 9)]
SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=6)


def test_the_layout_by_hand():
    packed = Packed.of(ROWS, share=True)
    assert packed.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 1, 2, 9]
    assert packed.positions.tolist() == [0, 1, 2, 3, 4, 3, 0, 0, 1, 2]
    assert packed.lengths == (5, 4, 4, 1, 2, 3)
    assert packed.source.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 5, 0, 1, 2, 5, 6, 7, 8, 7, 8, 9]
    assert packed.last.tolist() == [4, 5, 5, 6, 8, 9]
    assert firsts(packed.source).nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 8, 13, 14, 15, 18]
    assert Packed.of(ROWS).source is None
    assert Packed.of([(1, 2), (3, 4)], share=True).source is None
    assert [common((1, 2), (1, 2, 3)), common((1, 2), (1, 3)), common((), (1,))] == [2, 1, 0]


@given(SEQUENCES)
@settings(max_examples=100, deadline=None)
def test_the_whole_sequences_can_be_had_back(rows):
    packed, plain = Packed.of(rows, share=True), Packed.of(rows)
    assert torch.equal(packed.whole, plain.tokens)
    assert packed.lengths == plain.lengths
    assert torch.equal(packed.whole[plain.last], packed.tokens[packed.last])
    if packed.source is not None:
        first = firsts(packed.source)
        assert torch.equal(packed.source[first], torch.arange(len(packed.tokens)))
        assert torch.equal(packed.positions[packed.source], plain.positions)
    assert len(packed.tokens) <= len(plain.tokens)


@pytest.mark.parametrize("window", [None, 3])
def test_hidden_states_and_gradients_are_those_of_whole_sequences(window):
    from dataclasses import replace

    from tutelage.model.decoder import Decoder

    config = replace(tiny_decoder(12, layers=3).config, sliding_window=window)
    found = []
    for share in (False, True):
        decoder = Decoder(config).initialise(torch.Generator().manual_seed(0), std=0.3)
        packed = Packed.of(ROWS, share=share)
        hidden = decoder(packed)
        whole = hidden if packed.source is None else hidden[packed.source]
        weights = torch.linspace(-1, 1, whole.numel()).view_as(whole)
        (whole * weights).sum().backward()
        found.append((whole.detach(), {name: p.grad for name, p in decoder.named_parameters()}))
    (plain, slopes), (shared, others) = found
    torch.testing.assert_close(shared, plain, atol=1e-5, rtol=1e-5)
    for name, slope in slopes.items():
        torch.testing.assert_close(others[name], slope, atol=1e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


def loss_and_slope(network, of):
    """A loss and the gradients it leaves, which are taken away."""
    loss = of()
    loss.backward()
    slopes = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad(set_to_none=True)
    return float(loss.detach()), slopes


def assert_same(first, second):
    assert first[0] == pytest.approx(second[0], rel=1e-5)
    assert first[1].keys() == second[1].keys()
    for name, slope in first[1].items():
        torch.testing.assert_close(second[1][name], slope, atol=1e-6, rtol=1e-3)


def rankings():
    return [Ranking(tuple((i, 2, 3, 4 + k, i) for k in range(4)), (1, 2, 3, 4), None, None) for i in range(3)]


def test_the_reward_loss_is_the_same():
    scorer = Scorer(tiny_decoder(12), Head.reward(32, torch.Generator().manual_seed(1)))
    config = RewardConfig()
    shared, whole = (Groups.of(rankings(), config, share=share) for share in (True, False))
    assert (len(shared.packed.tokens), len(whole.packed.tokens)) == (3 * (3 + 4 * 2), 3 * 4 * 5)
    both = [loss_and_slope(scorer, lambda g=groups: reward_loss(scorer, g, config)[0]) for groups in (shared, whole)]
    assert_same(*both)


def test_the_dpo_loss_is_the_same():
    from dataclasses import replace

    policy = Policy(tiny_decoder(12))
    items = [Preference(r, 3) for r in rankings()]
    shared = Preferences.of(items, [torch.full((4,), -9.0) for _ in items])
    sequences = [s for item in items for s in item.sequences]
    whole = replace(shared, batch=response_batch(sequences, [3] * len(sequences), share=False))
    assert len(shared.batch.packed.tokens) < len(whole.batch.packed.tokens)
    options = {"sft_weight": 0.3, "runaway": DPOConfig().runaway}
    both = [
        loss_and_slope(policy, lambda p=p: preference_loss(policy, p, DPO(), **options)[0]) for p in (shared, whole)
    ]
    assert_same(*both)


def test_predictions_after_a_shared_prompt_come_from_its_one_last_token():
    batch = response_batch([(5, 6, 7), (5, 6, 8, 9)], [2, 2])
    assert batch.packed.tokens.tolist() == [5, 6, 7, 8, 9]
    assert batch.index.tolist() == [1, 1, 3]
    assert batch.target.tolist() == [7, 8, 9]
    assert batch.segment.tolist() == [0, 1, 1]
    assert isinstance(batch, Batch)
