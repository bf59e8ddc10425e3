"""Both ways of attention against the loop a student would write, forward and backward."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.model import attention
from tutelage.model.attention import Attend, Products, rectangles
from tutelage.model.batch import Packed
from tutelage.model.fused_attention import Fused, Varlen
from tutelage.model.kernels import has_products
from tutelage.model.native_attention import Tasks, serves
from tutelage.model.spans import spans

CPU = torch.device("cpu")
WAYS = [Fused, Products, Varlen]
ROWS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), min_size=1, max_size=6)


def attend_slowly(q: Tensor, k: Tensor, v: Tensor, packed: Packed, window: int | None) -> Tensor:
    """One query, one head, one key at a time."""
    places = torch.arange(len(packed.whole)) if packed.source is None else packed.source
    out: dict[tuple[int, int], Tensor] = {}
    group = q.shape[1] // k.shape[1]
    for row in torch.split(places, list(packed.lengths)):
        for i, head in itertools.product(range(len(row)), range(q.shape[1])):
            seen = [int(row[j]) for j in range(i + 1) if window is None or i - j < window]
            at = int(row[i])
            weight = torch.softmax(k[seen, head // group] @ q[at, head] / q.shape[-1] ** 0.5, 0)
            out[at, head] = weight @ v[seen, head // group]
    return torch.stack([torch.cat([out[t, h] for h in range(q.shape[1])]) for t in range(len(q))])


def numbers(packed: Packed, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    n = len(packed.tokens)
    q, k, v = (torch.randn(n, heads, 8, generator=g) for heads in (6, 2, 2))
    return tuple(x.to(dtype).requires_grad_() for x in (q, k, v))  # type: ignore[return-value]


def make(way: type, packed: Packed, window: int | None) -> Attend:
    found: Attend = Products(packed, window) if way is Products else way(packed, window, CPU)
    return found


def varlen(q, k, v, queries, keys, most_own, longest, *, window_size, enable_gqa):  # type: ignore[no-untyped-def]
    """What PyTorch documents of `varlen_attn`, which runs on CUDA alone: sequence by sequence, last queries with last
    keys, a window to the left and none to the right."""
    assert (enable_gqa, window_size[1]) == (True, 0)
    assert queries.dtype == keys.dtype == torch.int32
    for bound, starts in ((most_own, queries), (longest, keys)):
        assert int(starts.diff().max()) <= bound < 2 * int(starts.diff().max())
    out = []
    for i in range(len(queries) - 1):
        rows, seen = q[queries[i] : queries[i + 1]], slice(int(keys[i]), int(keys[i + 1]))
        at = torch.arange(len(k[seen]))
        mine = at[len(at) - len(rows) :, None]
        mask = (at <= mine) & ((at >= mine - window_size[0]) | (window_size[0] < 0))
        args = (x.transpose(0, 1)[None] for x in (rows, k[seen], v[seen]))
        out.append(F.scaled_dot_product_attention(*args, mask, enable_gqa=True)[0].transpose(0, 1))
    return torch.cat(out)


@pytest.fixture(autouse=True)
def _varlen_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)


def check(way: type, packed: Packed, window: int | None) -> None:
    given = numbers(packed)
    fast = make(way, packed, window)(*given)
    slow = attend_slowly(*given, packed, window)
    torch.testing.assert_close(fast, slow, atol=1e-5, rtol=1e-5)
    push = torch.linspace(-1, 1, fast.numel()).view_as(fast)
    for one, other in zip(torch.autograd.grad(fast, given, push), torch.autograd.grad(slow, given, push), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("lengths", [(7,), (4, 4), (1, 6, 3)])
def test_attention_is_the_loop_a_student_would_write(way: type, lengths: tuple[int, ...], window: int | None) -> None:
    check(way, Packed.of([list(range(n)) for n in lengths]), window)


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rectangles and blocks, and probabilities of the longer rows computed again on the way back."""
    monkeypatch.setattr(attention, "BLOCK", 3)
    monkeypatch.setattr(attention, "OVERHEAD", 2)
    monkeypatch.setattr(attention, "KEPT", 5)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("way", WAYS)
@given(ROWS, st.booleans(), st.sampled_from([None, 2, 4]))
@settings(max_examples=40, deadline=None)
def test_any_rows_shared_or_not_in_any_blocks(
    way: type, rows: list[list[int]], share: bool, window: int | None
) -> None:
    check(way, Packed.of(rows, share=share), window)


def test_rows_of_like_sizes_lie_side_by_side_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "OVERHEAD", 100)
    packed = Packed.of([list(range(n)) for n in (200, 8, 199, 9, 8)])
    plan = Products(packed, None)
    assert [(r.n, r.m, r.p) for r in plan.rectangles] == [(1, 200, 0), (1, 199, 0), (3, 9, 0)]
    monkeypatch.setattr(attention, "OVERHEAD", 400)  # a row of 200 more costs 399 scores than one of 199
    assert [(r.n, r.m) for r in Products(packed, None).rectangles] == [(2, 200), (3, 9)]
    assert rectangles([attention.Span(0, 5, None)], None)[0].run == 0


def test_low_precision_is_as_near_as_the_fused_kernel() -> None:
    packed = Packed.of([list(range(n)) for n in (60, 33, 47)])
    exact = numbers(packed)
    push = torch.randn(140, 48, generator=torch.Generator().manual_seed(1))
    want = Fused(packed, None, CPU)(*exact)
    slopes = torch.autograd.grad(want, exact, push)
    for way in (Fused, Products):
        rounded = numbers(packed, torch.bfloat16)
        found = make(way, packed, None)(*rounded)
        pulled = torch.autograd.grad(found, rounded, push.bfloat16())
        for one, other in zip((found, *pulled), (want, *slopes), strict=True):
            assert float((one.detach().float() - other.detach()).norm() / other.detach().norm()) < 0.008


HEADS = [(6, 2, 16), (4, 4, 32), (5, 1, 80), (9, 3, 64), (8, 1, 128)]


@pytest.mark.skipif(not has_products(), reason="no kernel for this processor")
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 70)), min_size=1, max_size=4),
    st.booleans(), st.sampled_from([None, 1, 7, 33]), st.sampled_from(HEADS),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_the_kernel_is_as_near_as_products(
    rows: list[tuple[int, int]], share: bool, window: int | None, shape: tuple[int, int, int]
) -> None:
    """Rows of one token and many, with shared beginnings of any length: no further from exact than twice the other."""
    packed = Packed.of(
        [[*range(same), *range(1000 * i, 1000 * i + n)] for i, (n, same) in enumerate(rows, 1)], share=share
    )
    heads, groups, size = shape
    g, n = torch.Generator().manual_seed(0), len(packed.tokens)
    given_ = [torch.randn(n, many, size, generator=g).bfloat16() for many in (heads, groups, groups)]
    push = torch.randn(n, heads * size, generator=g).bfloat16()
    tasks, products = Tasks(spans(packed), window), Products(packed, window)
    found = []
    for way, dtype in (
        (Fused(packed, window, CPU), torch.float32),
        (products, torch.bfloat16),
        (tasks, torch.bfloat16),
    ):
        inputs = [x.to(dtype).requires_grad_() for x in given_]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attention, "serves", lambda *_: False)  # products make it themselves
            out = way(*inputs)
        found.append([x.detach().float() for x in (out, *torch.autograd.grad(out, inputs, push.to(dtype)))])
    for exact, rounded, mine in zip(*found, strict=True):
        scale = (
            0.004 * float(push.float().norm()) / len(push) ** 0.5
        )  # of a gradient that cancels out there is noise alone
        assert float((mine - exact).norm()) <= 2 * float((rounded - exact).norm()) + scale


@pytest.mark.skipif(not has_products(), reason="no kernel for this processor")
def test_the_kernel_is_used_where_all_threads_have_work() -> None:
    many, one = (Packed.of([list(range(n)) for n in rows]) for rows in ([9] * 8, [30]))
    q, k = torch.zeros(72, 6, 16).bfloat16(), torch.zeros(72, 2, 16).bfloat16()
    eight, one = len(Products(many, None).spans), len(Products(one, None).spans)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert serves(eight, q, k)
        assert not serves(eight, q.float(), k.float())
        assert not serves(eight, q[..., :8], k[..., :8])
        assert not serves(one, q, k)
    finally:
        torch.set_num_threads(threads)


def test_each_device_has_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Packed.of([[1, 2, 3]])
    for way in (Fused, Varlen):  # as if the device were there
        monkeypatch.setattr(attention, way.__name__, lambda packed, window, device, way=way: way(packed, window, CPU))
    for device, compute, way in (
        ("cpu", torch.bfloat16, Products),
        ("cuda", torch.bfloat16, Varlen),
        ("cuda", torch.float32, Fused),
        ("mps", torch.bfloat16, Fused),
    ):
        assert isinstance(attention.attention(packed, None, torch.device(device), compute), way)
