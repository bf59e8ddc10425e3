"""Where the sequences of packed rows lie, as attention on a CPU reads them."""

from dataclasses import dataclass

from torch import Tensor

from tutelage.model.batch import Packed


@dataclass(frozen=True)
class Span:
    """What a sequence brings: own tokens from `start`, after `shared` ones that stand at `before`."""

    start: int
    own: int
    before: Tensor | None  # (shared,) int64 places of the beginning that it shares with the sequence before it

    @property
    def shared(self) -> int:
        """Tokens it shares."""
        return 0 if self.before is None else len(self.before)


def spans(packed: Packed) -> list[Span]:
    """The sequences that have tokens of their own."""
    found, at, first = [], 0, 0
    for n, own in zip(packed.lengths, packed.own, strict=True):
        before = None if own == n or packed.source is None else packed.source[at : at + n - own]
        if own:
            found.append(Span(first, own, before))
        at, first = at + n, first + own
    return found
