"""From last hidden states to tokens: the output matrix and the draw.

Legend: B rows, H hidden size, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.model.decoder import Decoder
from tutelage.model.linear import state_of
from tutelage.model.native import PIECES, panels, product
from tutelage.sample import native
from tutelage.sample.draw import check, drawn
from tutelage.sample.sampler import SamplingParams

VOCABULARY_SLICE = 2048


class Choice:
    """The output matrix as a decoder has it now, and how to draw."""

    def __init__(self, decoder: Decoder, params: SamplingParams) -> None:
        self.made_of = self._facts(decoder, params)
        self.head, self.params = decoder.head_weight().to(decoder.compute), params
        self.compiled = decoder.pieces == PIECES
        self.panels = panels(self.head) if self.compiled else None

    def __call__(self, hidden: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (B, H) fp32, uniform (B,) fp64 on the CPU → tokens (B,) int64 and log-probs (B,) fp32, on the CPU."""
        p, hidden = self.params, hidden.to(self.head.dtype)
        if self.panels is not None:
            logits = product(hidden, self.panels, len(self.head))
        else:
            logits = logits_of(hidden, self.head)
        if self.compiled and p.temperature > 0 and not p.top_k and p.top_p == 1:
            return native.draw(logits, uniform, p.temperature)
        token, logprob = (x.cpu() for x in self._drawn(logits, uniform.to(logits.device)))
        check(logprob)
        return token, logprob

    def stands(self, decoder: Decoder, params: SamplingParams) -> bool:
        """Whether nothing has changed since."""
        return self.made_of == self._facts(decoder, params)

    @staticmethod
    def _facts(decoder: Decoder, params: SamplingParams) -> tuple[object, ...]:
        return params, decoder.compute, decoder.pieces, *state_of(decoder.head_weight())

    def on_device(self, hidden: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """The same on the device of both, without a check for NaN."""
        return self._drawn(F.linear(hidden.to(self.head.dtype), self.head), uniform)

    def _drawn(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        p = self.params
        return drawn(logits.float(), uniform, temperature=p.temperature, top_k=p.top_k, top_p=p.top_p)


def logits_of(hidden: Tensor, head: Tensor) -> Tensor:
    """hidden (B, H), head (V, H), both in the compute dtype → (B, V) in it.

    On a CPU in fp32 a slice of the vocabulary at a time: the matrix library does a tall thin product a fifth slower in
    one go.
    """
    if hidden.device.type != "cpu" or head.dtype != torch.float32:
        return F.linear(hidden, head)
    out = hidden.new_empty(len(hidden), len(head))
    for part in range(0, len(head), VOCABULARY_SLICE):
        at = slice(part, part + VOCABULARY_SLICE)
        torch.mm(hidden, head[at].t(), out=out[:, at])
    return out
