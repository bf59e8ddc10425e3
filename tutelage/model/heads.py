"""The root modules: what a network says of a batch. Log-probabilities and scalars are computed inside `forward`.

Batches come from the CPU and numbers per token go back to it, wherever the weights are; hidden states stay with them.

Legend: T packed tokens, M chosen positions, H hidden size.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.model.batch import Batch, Packed
from tutelage.model.decoder import Decoder
from tutelage.model.linear import LowCopy
from tutelage.model.maths import token_logprobs


class PolicyOutput(NamedTuple):
    """What a policy says of the M tokens of a batch."""

    logprob: Tensor  # (M,) nats
    entropy: Tensor  # (M,) nats, no gradient
    hidden: Tensor  # (M, H): the states that predicted them


class Policy(nn.Module):
    """A decoder with its language-model head."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self._low = LowCopy()

    def forward(
        self, batch: Batch, *, temperature: float = 1.0, hidden: Tensor | None = None, start: int = 0
    ) -> PolicyOutput:
        """Log-probability of each target token. `hidden` (T, H) is the input of layer `start`, None to begin anew."""
        chosen = self.decoder(batch.packed, hidden, start, batch.index, sparse=True)
        weight = self.decoder.head_weight()
        low = self._low.of(weight, self.decoder.compute)
        target = batch.target.to(weight.device)
        pieces = self.decoder.pieces
        logprob, entropy = token_logprobs(chosen, weight, target, temperature=temperature, low=low, pieces=pieces)
        return PolicyOutput(logprob.cpu(), entropy.cpu(), chosen)


class Head(nn.Module):
    """A scalar from a hidden state."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)  # (1, H)

    @classmethod
    def reward(cls, width: int, generator: torch.Generator) -> "Head":
        """N(0, 1/√(H + 1)), as Stiennon et al. 2020 start theirs."""
        return cls(torch.randn(1, width, generator=generator) / math.sqrt(width + 1))

    @classmethod
    def value(cls, width: int) -> "Head":
        """Zeros: the first advantages are then plain returns."""
        return cls(torch.zeros(1, width))

    def forward(self, hidden: Tensor) -> Tensor:
        """(M, H) → (M,) fp32, on the CPU."""
        return F.linear(hidden.float(), self.weight)[:, 0].cpu()


class Scored(NamedTuple):
    """What a scorer says of M positions."""

    score: Tensor  # (M,)
    hidden: Tensor  # (M, H)


class Scorer(nn.Module):
    """A decoder with a scalar head: the reward model, or a value network of its own."""

    def __init__(self, decoder: Decoder, head: Head) -> None:
        super().__init__()
        self.decoder, self.head = decoder, head

    def forward(self, packed: Packed, index: Tensor, *, hidden: Tensor | None = None, start: int = 0) -> Scored:
        """A score at each chosen position of the packed rows; index (M,) int64."""
        chosen = self.decoder(packed, hidden, start, index)
        return Scored(self.head(chosen), chosen)


def common_layers(*decoders: Decoder) -> int:
    """How many layers, from the bottom, are the very same objects in all of these decoders."""
    first = decoders[0]
    if any(d.embed is not first.embed for d in decoders):
        return 0
    shared = 0
    for layers in zip(*(d.layers for d in decoders), strict=False):
        if any(layer is not layers[0] for layer in layers):
            break
        shared += 1
    return shared


@torch.no_grad()
def trunk(decoder: Decoder, packed: Packed, layers: int) -> Tensor | None:
    """What enters layer `layers`, (T, H), computed once for all networks that share the layers below; None for 0."""
    return decoder.run(packed, 0, layers) if layers else None


def relink(decoder: Decoder, source: Decoder) -> int:
    """Make every module from the bottom that is equal, bit for bit, to the source's the source's own object, frozen.

    Two networks loaded from two folders then share memory and work again. Returns how many layers they share.
    """
    if not torch.equal(decoder.embed.weight, source.embed.weight):
        return 0
    decoder.embed = source.embed
    decoder.embed.requires_grad_(False)
    for i, (mine, theirs) in enumerate(zip(decoder.layers, source.layers, strict=True)):
        a, b = mine.state_dict(), theirs.state_dict()
        if a.keys() != b.keys() or not all(torch.equal(a[name], b[name]) for name in a):
            break
        decoder.layers[i] = theirs.requires_grad_(False)
    return common_layers(decoder, source)
