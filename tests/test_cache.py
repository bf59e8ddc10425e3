"""The cache: rows are kept where they belong, and looking back equals attention written out."""

import math

import pytest
import torch
from torch import Tensor

from tutelage.model.batch import Packed
from tutelage.model.decoder import DecoderConfig
from tutelage.sample.cache import Cache, Step, look_back, round_up

CONFIG = DecoderConfig("llama", 11, 16, 16, 2, 4, 2, 4, 1e4, 1e-5, True, 64)


def cache_of(slots: int = 4, limit: int = 64) -> Cache:
    return Cache(CONFIG, slots, limit, torch.float32, torch.device("cpu"))


def written_out(q: Tensor, k: Tensor, v: Tensor, seen: list[range]) -> Tensor:
    """The slow twin: one row and one head at a time, keys of a group repeated by hand."""
    rows, heads, size = q.shape
    out = torch.zeros(rows, heads * size)
    for b in range(rows):
        for a in range(heads):
            group = a * k.shape[1] // heads
            at = list(seen[b])
            weights = (k[b, group, at] @ q[b, a] / math.sqrt(size)).softmax(0)
            out[b, a * size : (a + 1) * size] = weights @ v[b, group, at]
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # fp64 takes the fused way, as bf16 does
def test_looking_back_equals_attention_written_out(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(3, 4, 4, generator=generator)
    k, v = (torch.randn(5, 2, 24, 4, generator=generator) for _ in range(2))
    seen = [range(1), range(3, 9), range(16)]
    bias = torch.full((3, 1, 16), -torch.inf)
    for b, r in enumerate(seen):
        bias[b, 0, list(r)] = 0
    got = look_back(q.to(dtype), k[:3, :, :16].to(dtype), v[:3, :, :16].to(dtype), bias.to(dtype))
    assert torch.allclose(got.float(), written_out(q, k, v, seen), atol=1e-5)


def test_room_grows_in_steps_up_to_the_limit_and_keeps_what_it_holds() -> None:
    cache = cache_of(limit=50)
    cache.reserve(3)
    assert cache.capacity == 16
    cache.k[1][2, 0, 3, 1], cache.v[0][3, 1, 15, 2] = 7.0, 8.0
    cache.reserve(17)
    assert cache.capacity == 32
    cache.reserve(33)
    assert cache.capacity == 64  # 50, rounded up
    assert cache.k[1].shape == (4, 2, 64, 4)
    assert float(cache.k[1].sum()) == 7.0 == float(cache.k[1][2, 0, 3, 1])
    assert float(cache.v[0].sum()) == 8.0 == float(cache.v[0][3, 1, 15, 2])
    before = cache.k[0]
    cache.reserve(64)
    assert cache.k[0] is before
    assert [round_up(n) for n in (1, 16, 17)] == [16, 16, 32]


def test_moving_copies_rows_in_every_layer() -> None:
    cache = cache_of()
    cache.reserve(16)
    for held in (*cache.k, *cache.v):
        held.copy_(torch.arange(4.0)[:, None, None, None].expand_as(held))
    cache.move(torch.tensor([3, 2]), torch.tensor([0, 1]), 5)
    for held in (*cache.k, *cache.v):
        assert held[:, 0, 0, 0].tolist() == [3, 2, 2, 3]
        assert held[:, 1, 4, 3].tolist() == [3, 2, 2, 3]
        assert held[:, 1, 5, 3].tolist() == [0, 1, 2, 3]  # beyond the five tokens nothing moved


@pytest.mark.parametrize("window", [None, 3])
def test_a_step_continues_rows_and_starts_prompts_at_once(window: int | None) -> None:
    """Two rows go on, three rows start from two prompts; every key lands in its row and place, and only there."""
    config = DecoderConfig(**(vars(CONFIG) | {"sliding_window": window}))
    cache = Cache(config, 6, 40, torch.float32, torch.device("cpu"))
    cache.reserve(16)
    generator = torch.Generator().manual_seed(1)
    old_k, old_v = (torch.randn(2, 2, 16, 4, generator=generator) for _ in range(2))
    cache.k[1][:2], cache.v[1][:2] = old_k, old_v
    prompts = Packed.of([[1, 2, 3, 4], [5]])
    step = Step(cache, torch.tensor([9, 4]), prompts, [0, 1, 0])
    q, k, v = (torch.randn(7, n, 4, generator=generator) for n in (4, 2, 2))
    out = step(1, q, k, v)

    assert torch.equal(cache.k[1][0, :, 9], k[0])
    assert torch.equal(cache.v[1][1, :, 4], v[1])
    for row in (2, 4):
        assert torch.equal(cache.k[1][row, :, :4], k[2:6].transpose(0, 1))
        assert torch.equal(cache.v[1][row, :, :4], v[2:6].transpose(0, 1))
    assert torch.equal(cache.k[1][3, :, 0], k[6])
    assert not cache.k[1][5].any()
    assert not cache.k[0].any()
    assert torch.equal(cache.k[1][0, :, :9], old_k[0, :, :9])

    def seen(last: int) -> range:
        return range(0 if window is None else max(0, last - window + 1), last + 1)

    assert torch.allclose(out[:2], written_out(q[:2], cache.k[1], cache.v[1], [seen(9), seen(4)]), atol=1e-5)
    rows = torch.tensor([2, 2, 2, 2, 3])
    want = written_out(q[2:], cache.k[1][rows], cache.v[1][rows], [seen(0), seen(1), seen(2), seen(3), seen(0)])
    assert torch.allclose(out[2:], want, atol=1e-5)


def test_what_a_former_row_left_behind_is_not_seen() -> None:
    cache = cache_of(slots=1)
    cache.reserve(16)
    q, k, v = torch.ones(1, 4, 4), torch.ones(1, 2, 4), torch.full((1, 2, 4), 3.0)
    cache.k[0].fill_(100.0)
    cache.v[0].fill_(1e6)
    cache.v[0][:, :, 0] = 1.0
    cache.k[0][:, :, 0] = 1.0
    assert torch.equal(Step(cache, torch.tensor([1]), None, [])(0, q, k, v), torch.full((1, 16), 2.0))
