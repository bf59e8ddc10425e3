"""The decoder against a student's loop over single sequences, and the low-precision copies of its weights."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.model.batch import Batch, Example, Packed
from tutelage.model.decoder import Decoder, inverse_frequencies
from tutelage.model.tiny import tiny_config, tiny_decoder

sequences = st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=9), min_size=1, max_size=5)


@settings(max_examples=25, deadline=None)
@given(sequences, st.sampled_from([None, 2, 4]), st.randoms(use_true_random=False))
def test_packing_and_order_change_nothing(rows: list[list[int]], window: int | None, random: object) -> None:
    config = replace(tiny_config(40), sliding_window=window)
    decoder = Decoder(config).initialise(torch.Generator().manual_seed(3), std=0.2)
    order = sorted(range(len(rows)), key=lambda _: random.random())  # type: ignore[attr-defined]
    with torch.no_grad():
        alone = [decoder(Packed.of([row])) for row in rows]
        together = decoder(Packed.of([rows[i] for i in order]))
    torch.testing.assert_close(together, torch.cat([alone[i] for i in order]), atol=2e-5, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 39), min_size=2, max_size=12), st.integers(0, 39), st.data())
def test_the_future_is_not_seen(row: list[int], other: int, data: st.DataObject) -> None:
    decoder = tiny_decoder(40)
    at = data.draw(st.integers(1, len(row) - 1))
    changed = [*row[:at], other, *row[at + 1 :]]
    with torch.no_grad():
        before, after = decoder(Packed.of([row])), decoder(Packed.of([changed]))
    torch.testing.assert_close(before[:at], after[:at], atol=0, rtol=0)
    assert other == row[at] or not torch.equal(before[at:], after[at:])


def test_beginning_at_a_later_layer_gives_the_same() -> None:
    decoder, packed = tiny_decoder(40, layers=3), Packed.of([[1, 2, 3], [4, 5]])
    with torch.no_grad():
        middle = decoder.run(packed, 0, 2)
        torch.testing.assert_close(decoder(packed, middle, 2), decoder(packed), atol=0, rtol=0)
        assert not torch.allclose(decoder(packed, middle, 1), decoder(packed))


def test_llama3_rope_scaling_keeps_fast_turns_and_slows_slow_ones() -> None:
    scaling: dict[str, float | str] = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64.0,
    }
    plain = replace(tiny_config(40, width=64), rope_theta=10_000.0)
    base, scaled = inverse_frequencies(plain), inverse_frequencies(replace(plain, rope_scaling=scaling))
    turns = 64 * base / (2 * torch.pi)
    torch.testing.assert_close(scaled[turns >= 4], base[turns >= 4])
    torch.testing.assert_close(scaled[turns <= 1], base[turns <= 1] / 8)
    assert (turns >= 4).any()
    assert (turns <= 1).any()
    linear = inverse_frequencies(replace(plain, rope_scaling={"rope_type": "linear", "factor": 4.0}))
    torch.testing.assert_close(linear, base / 4)


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_reaches_the_low_precision_copies(fused: bool) -> None:
    """torch's fused AdamW leaves a weight's version as it was, so a copy kept by version went stale: an engine that
    decoded in bf16 sampled from the untrained policy for ever. The step moves every weight by about 0.1, so an equal
    output can't be luck."""
    decoder, packed = tiny_decoder(40).compute_in(torch.bfloat16), Packed.of([[1, 2, 3, 4]])
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.1, fused=fused)
    with torch.no_grad():
        before = decoder(packed)
        torch.testing.assert_close(decoder(packed), before, atol=0, rtol=0)
    decoder(packed).square().mean().backward()
    optimizer.step()
    linear = decoder.layers[0].qkv
    with torch.no_grad():
        after = decoder(packed)
        torch.testing.assert_close(linear.low(), linear.weight.bfloat16(), atol=0, rtol=0)
    assert (after - before).abs().max() > 0.05


def test_a_new_low_precision_copy_lies_where_the_last_one_lay() -> None:
    linear = tiny_decoder(40).compute_in(torch.bfloat16).layers[0].qkv
    before = linear.low()
    place = before.data_ptr()
    with torch.no_grad():
        linear.weight.fill_(2.0)
    assert linear.low().data_ptr() == place
    assert before.unique().tolist() == [2.0]


def test_a_graph_over_a_copy_that_was_written_over_is_refused() -> None:
    decoder, packed = tiny_decoder(40).compute_in(torch.bfloat16), Packed.of([[1, 2, 3]])
    loss = decoder(packed).sum()
    with torch.no_grad():
        decoder.layers[0].qkv.weight.fill_(2.0)
        decoder(packed)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_low_precision_copies_follow_copying_loading_and_replacing() -> None:
    decoder = tiny_decoder(40).compute_in(torch.bfloat16)
    linear = decoder.layers[0].qkv
    with torch.no_grad():
        kept = linear.low()
        assert linear.low() is kept  # made once
        twin = copy.deepcopy(decoder).layers[0].qkv
        assert twin.low() is not kept  # a copied network doesn't write over the other's
        twin.weight.fill_(2.0)
        assert twin.low().unique().tolist() == [2.0]
        decoder.load_state_dict(tiny_decoder(40, seed=1).state_dict())
        torch.testing.assert_close(linear.low(), linear.weight.bfloat16(), atol=0, rtol=0)
        linear.weight.data = torch.ones_like(linear.weight)
        assert linear.low().unique().tolist() == [1.0]


def test_gradients_reach_fp32_weights_through_bf16_products() -> None:
    decoder = tiny_decoder(40).compute_in(torch.bfloat16)
    decoder(Packed.of([[1, 2, 3]])).sum().backward()
    weight = decoder.layers[0].qkv.weight
    assert weight.dtype == torch.float32
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_batch_points_from_the_predicting_token_to_the_predicted() -> None:
    examples = [Example((5, 6, 7), (False, False, True)), Example((8, 9), (False, True))]
    batch = Batch.of(examples)
    assert batch.index.tolist() == [1, 3]
    assert batch.target.tolist() == [7, 9]
    assert batch.segment.tolist() == [0, 1]
    assert batch.packed.last.tolist() == [2, 4]
    assert batch.packed.starts.tolist() == [0, 3]
    with pytest.raises(ValueError, match="first token"):
        Batch.of([Example((1, 2), (True, False))])
    with pytest.raises(ValueError, match="no token"):
        Batch.of([Example((1, 2), (False, False))])
