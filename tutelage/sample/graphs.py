"""A pass over rows that all continue, as a CUDA graph: one launch instead of some six hundred.

On a GPU a small model's step takes far less time than Python needs to launch its kernels. A graph is recorded for each
number of rows and each capacity of the cache, and replayed as long as all that it reads stands where it stood.

Legend: B rows in use, R ≥ B rows of a graph, S slots, H hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.model.decoder import Block, Decoder
from tutelage.model.linear import Linear
from tutelage.sample.cache import Cache, look_back, seen_bias
from tutelage.sample.choice import Choice

SHARE = 4  # graphs are of S, S/4, S/16, … rows
SMALL = 8  # and of no fewer than this


@dataclass
class Recorded:
    """A graph with the places that it reads and writes."""

    again: Callable[[], None]
    tokens: Tensor  # (R,) int64
    positions: Tensor  # (R,) int64
    uniform: Tensor  # (R,) fp64
    drawn: tuple[Tensor, ...]  # (R,) tokens, (R,) log-probs, and (R, H) what enters the captured layer, if any


def record(run: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
    """Record what `run` does on the GPU → what does it again, and the tensors that it then fills anew."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # whatever is compiled or allocated the first time is not to be recorded
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = run()
    return graph.replay, out


class Graphs:
    """The graphs of one decoder over one cache."""

    def __init__(self, decoder: Decoder, cache: Cache, capture: int | None) -> None:
        self.decoder, self.cache, self.capture = decoder, cache, capture
        self.patience = max(1, cache.slots // 8)
        """Prompts wait until so many rows are free: a pass that lets some in is launched kernel by kernel."""
        self._made: dict[int, Recorded] = {}
        self._read: tuple[int, ...] = ()
        self._capacity = 0

    def begin(self) -> None:
        """A job begins, during which no weight changes: forget what was recorded if something moved since the last.

        A copy in a lower precision moves when its weight changes.
        """
        low = [m.low().data_ptr() for m in self.decoder.modules() if isinstance(m, Linear)]
        read = (*low, *(p.data_ptr() for p in self.decoder.parameters()))
        if read != self._read:
            self._made, self._read = {}, read

    def rows(self, count: int) -> int:
        """Rows of the smallest graph that has room for so many."""
        size = self.cache.slots
        while size // SHARE >= max(count, SMALL):
            size //= SHARE
        return size

    def __call__(
        self, choose: Choice, tokens: Tensor, positions: Tensor, uniform: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens (B,), their positions (B,) and uniform numbers (B,), all on the CPU → what is drawn next and its
        log-probs, (B,) on the CPU, and (B, H) what enters the captured layer."""
        count = len(tokens)
        self.cache.reserve(int(positions.max()) + 1)
        if self._capacity != self.cache.capacity:
            self._made, self._capacity = {}, self.cache.capacity
        size = self.rows(count)
        if size not in self._made:
            self._made[size] = self._record(choose, size, tokens, positions)
        one = self._made[size]
        for place, given in ((one.tokens, tokens), (one.positions, positions), (one.uniform, uniform)):
            place[:count].copy_(given)
        one.again()
        token, logprob, *entering = one.drawn
        return token[:count].cpu(), logprob[:count].cpu(), entering[0][:count] if entering else None

    def _record(self, choose: Choice, size: int, tokens: Tensor, positions: Tensor) -> Recorded:
        """For so many rows. Rows beyond those in use write to slots that nobody holds."""
        device, count = self.cache.device, len(tokens)
        token, place = (torch.zeros(size, dtype=torch.int64, device=device) for _ in range(2))
        uniform = torch.zeros(size, dtype=torch.float64, device=device)
        token[:count].copy_(tokens)
        place[:count].copy_(positions)
        again, drawn = record(lambda: self._pass(choose, token, place, uniform))
        return Recorded(again, token, place, uniform, drawn)

    def _pass(self, choose: Choice, tokens: Tensor, positions: Tensor, uniform: Tensor) -> tuple[Tensor, ...]:
        decoder, cache, size = self.decoder, self.cache, len(tokens)
        row = torch.arange(size, device=cache.device)
        bias = seen_bias(positions, cache.capacity, decoder.config.sliding_window, cache.dtype)
        x = decoder.embed(tokens)
        cos, sin = decoder.rotation(positions)
        entering: Sequence[Tensor] = ()
        for i, layer in enumerate(decoder.layers):
            assert isinstance(layer, Block)
            if i == self.capture:
                entering = (x,)
            q, k, v = layer.before(x, cos, sin)
            cache.k[i][row, :, positions] = k
            cache.v[i][row, :, positions] = v
            x = layer.after(x, look_back(q, cache.k[i][:size], cache.v[i][:size], bias))
        return (*choose.on_device(decoder.norm(x), uniform), *entering)
