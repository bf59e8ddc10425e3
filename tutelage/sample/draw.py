"""One token from each row of logits, with one uniform number a row.

Inverse transform sampling (Devroye 1986, II.2): the token is the first whose cumulative probability passes u.
`torch.multinomial` draws a random number for every entry of the vocabulary instead. The cumulative sum is taken in
two levels, over sums of blocks and then inside one block, both in fp64: exact for large vocabularies, where a flat fp32
sum loses tokens below 6e-8, and it reads the probabilities once.

Legend: B rows, V vocabulary, C candidates.
"""

import torch
from torch import Tensor

from tutelage.errors import TrainingError

BLOCK = 256
NOT_NUMBERS = "the policy's logits are not numbers (NaN): its weights or its training went wrong"


def draw(logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """logits (B, V) fp32 (may be overwritten), uniform (B,) fp64 in [0, 1) → tokens (B,) int64, log-probs (B,) fp32.

    Log-probs are log_softmax(logits / temperature) over the whole vocabulary, whatever top_k and top_p leave out.
    Temperature 0 takes the likeliest token, the first of equals, with log-probs at temperature 1. Raises TrainingError
    for logits that are NaN.
    """
    token, logprob = drawn(logits, uniform, temperature=temperature, top_k=top_k, top_p=top_p)
    check(logprob)
    return token, logprob


def check(logprob: Tensor) -> None:
    """Raise TrainingError where a log-prob that was drawn is NaN."""
    if logprob.isnan().any():
        raise TrainingError(NOT_NUMBERS)


def drawn(logits: Tensor, uniform: Tensor, *, temperature: float, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """`draw` without its check, which a GPU would have to be waited for."""
    if temperature == 0:
        token = logits.argmax(-1)
        logprob = (logits.gather(1, token[:, None]) - logits.logsumexp(-1, keepdim=True))[:, 0]
    else:
        if temperature != 1:
            logits = logits.div_(temperature)
        probs = logits.softmax(-1)  # fused: one pass while a row is in the processor's cache
        if top_k or top_p < 1:
            candidates, order = likeliest(probs, top_k, top_p)
            token = order.gather(1, invert(candidates, uniform)[0][:, None])[:, 0]
        else:
            token = invert_in_blocks(probs, uniform)
        logprob = probs.gather(1, token[:, None])[:, 0].log()
    return token, logprob


def likeliest(probs: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities (B, V) → candidates (B, C) falling, 0 where left out, and their tokens (B, C).

    top_p keeps a token while those before it hold less than top_p of what top_k left (Holtzman et al. 2020, section
    3.1).
    """
    if 0 < top_k < probs.shape[-1]:
        value, order = probs.topk(top_k, -1)
    else:
        value, order = probs.sort(dim=-1, descending=True, stable=True)
    if top_p < 1:
        total = value.double().cumsum(-1)
        value = value.masked_fill(total - value.double() >= top_p * total[:, -1:], 0.0)
    return value, order


def invert(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The first entry whose cumulative weight passes uniform · total, and how far into it that falls.

    weights (B, C) ≥ 0, uniform (B,) fp64 in [0, 1] → index (B,) int64, rest (B,) fp64 in [0, 1]. Never an entry of
    weight 0.
    """
    cumulative = weights.double().cumsum(-1)
    total = cumulative[:, -1]
    target = torch.minimum(uniform * total, total.nextafter(total.new_zeros(())))[:, None]
    index = torch.searchsorted(cumulative, target, right=True)
    index.clamp_(max=weights.shape[-1] - 1)  # passes the end only for NaN, which `draw` reports
    weight = weights.double().gather(1, index)
    rest = (target - (cumulative.gather(1, index) - weight)) / weight
    return index[:, 0], rest.clamp_(0, 1)[:, 0]


def invert_in_blocks(probs: Tensor, uniform: Tensor) -> Tensor:
    """`invert` over (B, V) by way of blocks' sums; → index (B,)."""
    size = probs.shape[-1]
    whole = size - size % BLOCK
    sums = torch.unflatten(probs[:, :whole], 1, (-1, BLOCK)).sum(-1) if whole else probs[:, :0]
    if whole < size:
        sums = torch.cat((sums, probs[:, whole:].sum(-1, keepdim=True)), 1)
    block, rest = invert(sums, uniform)
    place = block[:, None] * BLOCK + torch.arange(BLOCK, device=probs.device)
    inside = probs.gather(1, place.clamp(max=size - 1)).masked_fill(place >= size, 0.0)
    return (block * BLOCK + invert(inside, rest)[0]).clamp_(max=size - 1)
