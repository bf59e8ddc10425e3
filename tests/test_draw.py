"""A token is drawn as often as its probability says, in vocabularies small and large, and never at probability zero."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.sample.draw import BLOCK, draw, invert, invert_in_blocks
from tutelage.sample.sampler import uniforms


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from a second thread, and lose much where another process wants it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def chi_square(counts: Tensor, probs: Tensor, draws: int) -> float:
    """How many standard deviations the statistic is above its mean, bins of fewer than 5 expected draws in one."""
    expected, order = (probs.double() * draws).sort(descending=True)
    seen, big = counts.double()[order], int((expected >= 5).sum())
    e = torch.cat((expected[:big], expected[big:].sum()[None]))
    s = torch.cat((seen[:big], seen[big:].sum()[None]))
    statistic = float(((s - e).square() / e.clamp(min=1e-9)).sum())
    return (statistic - big) / (2 * big) ** 0.5


@pytest.mark.parametrize("vocabulary", [7, 300, 49_152])
def test_tokens_are_drawn_by_their_probabilities(vocabulary: int) -> None:
    draws, rows = 200_000, 200
    logits = 2 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))
    logits[3] = -torch.inf
    uniform = uniforms(1, draws // rows, rows)
    counts = torch.zeros(vocabulary, dtype=torch.int64)
    probs = (logits / 0.7).softmax(-1)
    tiled = probs.expand(rows, -1).contiguous()
    for u in uniform[: draws // rows if vocabulary < 1000 else 50]:
        counts += invert_in_blocks(tiled, u).bincount(minlength=vocabulary)
    assert counts[3] == 0
    assert chi_square(counts, probs, int(counts.sum())) < 4
    skewed = (logits / 0.75).softmax(-1)
    if vocabulary < 1000:  # the test can tell temperatures .70 and .75 apart
        assert chi_square(counts, skewed, int(counts.sum())) > 8


def test_a_large_vocabulary_is_inverted_exactly() -> None:
    """Tokens of probability 1e-9 behind one of nearly 1: a flat fp32 cumulative sum cannot tell them apart."""
    weights = torch.full((1, 49_152), 1e-9)
    weights[0, 0] = 1.0
    cumulative = weights.double().cumsum(-1)[0]
    middle = (cumulative[1:] + cumulative[:-1]) / 2 / cumulative[-1]  # aims at the middle of every token but the first
    at = torch.arange(1, 49_152, 997)
    got = invert_in_blocks(weights.expand(len(at), -1), middle[at - 1])
    assert (got - at).abs().max() <= 8  # 1e-9 · 256 has its own rounding in fp32; a flat sum is off by thousands
    flat = torch.searchsorted(weights.cumsum(-1)[0], middle[at - 1].float())
    assert (flat - at).abs().max() > 20


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 1000]),
    seed=st.integers(0, 10_000),
    edge=st.sampled_from([0.0, 1 - 2**-53, 0.5, None]),
)
def test_a_token_of_probability_zero_is_never_drawn(size: int, seed: int, edge: float | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(4, size, generator=generator) * (torch.rand(4, size, generator=generator) < 0.1)
    weights[:, torch.randint(0, size, (1,), generator=generator)] = 0.3
    u = torch.rand(4, dtype=torch.float64, generator=generator)
    if edge is not None:
        u.fill_(edge)
    got = invert_in_blocks(weights, u)
    assert (weights.gather(1, got[:, None]) > 0).all()
    share = weights.double().cumsum(-1) / weights.double().sum(-1, keepdim=True)
    near = share.gather(1, torch.minimum(got, invert(weights, u)[0])[:, None])[:, 0]
    assert ((got == invert(weights, u)[0]) | ((near - u).abs() < 1e-6)).all()  # one level says the same


def test_top_k_and_top_p_keep_what_they_say_and_logprobs_stay_whole() -> None:
    probs = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])
    many = uniforms(0, 1, 4000)[0]

    def share(top_k: int, top_p: float) -> list[float]:
        logits = probs.log().expand(4000, -1).contiguous()
        token, logprob = draw(logits, many, temperature=1.0, top_k=top_k, top_p=top_p)
        assert torch.allclose(logprob, probs.log()[token], atol=1e-6)
        return (token.bincount(minlength=5) / 4000).tolist()

    assert share(2, 1.0) == pytest.approx([0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], abs=0.03)
    assert share(0, 0.6) == pytest.approx([0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], abs=0.03)
    assert share(0, 0.66) == pytest.approx([0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85], abs=0.03)
    assert share(3, 0.5) == pytest.approx([0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], abs=0.03)  # .4 / .85 < .5
    assert share(1, 1.0) == share(0, 1e-6) == [0, 1, 0, 0, 0]
    assert share(0, 1.0) == pytest.approx(probs.tolist(), abs=0.03)
    assert share(99, 1.0) == pytest.approx(probs.tolist(), abs=0.03)
