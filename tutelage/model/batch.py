"""What the networks read: packed rows of tokens, without padding.

Legend: T tokens laid end to end, F tokens of N whole sequences (F = T where none shares a beginning), M chosen
positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, overload

import torch
from torch import Tensor

T = TypeVar("T")
PAGE = 256  # items of a lazy sequence that are made together when all are asked for in turn


@dataclass(frozen=True)
class Packed:
    """N sequences laid end to end. Positions restart at 0 with each, and no sequence sees another.

    Where `source` is given, a beginning that a sequence has in common with the one before it is there once: causal
    layers compute the same for it whatever follows.
    """

    tokens: Tensor  # (T,) int64
    positions: Tensor  # (T,) int64
    lengths: tuple[int, ...]  # N of them, with what they share; sum F
    source: Tensor | None = None  # (F,) int64: where each token of the whole sequences is; None where nothing is shared

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]], *, share: bool = False) -> "Packed":
        """Lay the sequences end to end, with `share` common beginnings of neighbours once.

        Raises ValueError when there are none or one is empty.
        """
        lengths = tuple(len(s) for s in sequences)
        if not lengths or min(lengths) == 0:
            raise ValueError(f"need at least one sequence and no empty ones; lengths are {lengths}")
        tokens: list[int] = []
        positions: list[int] = []
        source: list[int] = []
        before: Sequence[int] = ()
        row: list[int] = []
        for sequence in sequences:
            same = common(before, sequence) if share else 0
            row = [*row[:same], *range(len(tokens), len(tokens) + len(sequence) - same)]
            tokens += sequence[same:]
            positions += range(same, len(sequence))
            source += row
            before = sequence
        shared = torch.tensor(source) if len(source) > len(tokens) else None
        return cls(torch.tensor(tokens), torch.tensor(positions), lengths, shared)

    @property
    def own(self) -> tuple[int, ...]:
        """N numbers of tokens that each sequence does not share with the one before it; sum T."""
        if self.source is None:
            return self.lengths
        return tuple(int(part.sum()) for part in torch.split(firsts(self.source), list(self.lengths)))

    @property
    def starts(self) -> Tensor:
        """(N,) int64: where each whole sequence begins."""
        return torch.tensor((0, *self.lengths[:-1])).cumsum(0)

    @property
    def last(self) -> Tensor:
        """(N,) int64: the index of each sequence's last token."""
        last = torch.tensor(self.lengths).cumsum(0) - 1
        return last if self.source is None else self.source[last.to(self.source.device)]

    @property
    def whole(self) -> Tensor:
        """(F,) int64: the tokens of the whole sequences, end to end."""
        return self.tokens if self.source is None else self.tokens[self.source]

    def to(self, device: torch.device) -> "Packed":
        """The same on another device."""
        source = None if self.source is None else self.source.to(device)
        return Packed(self.tokens.to(device), self.positions.to(device), self.lengths, source)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens from the beginning are the same."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def firsts(source: Tensor) -> Tensor:
    """(F,) bool: which tokens of whole sequences are not copies of an earlier one; see `Packed.source`."""
    highest = source.cummax(0).values
    return torch.cat((highest.new_ones(1, dtype=torch.bool), highest[1:] > highest[:-1]))


@dataclass(frozen=True)
class Example:
    """One tokenized sequence and which of its tokens are to be predicted."""

    tokens: tuple[int, ...]
    train: tuple[bool, ...]  # same length; train[0] must be False: nothing comes before it


@dataclass(frozen=True)
class Batch:
    """Packed sequences and the M tokens whose prediction counts."""

    packed: Packed
    index: Tensor  # (M,) int64 into the packed tokens: the position that predicts
    target: Tensor  # (M,) int64: the token predicted
    segment: Tensor  # (M,) int64: which sequence it is in

    @classmethod
    def of(cls, examples: Sequence[Example], *, share: bool = False) -> "Batch":
        """Pack examples, with `share` as `Packed.of` does.

        Raises ValueError when an example's two sequences differ in length, when it trains on its first token, or when
        nothing is trained.
        """
        odd = next((e for e in examples if len(e.train) != len(e.tokens)), None)
        if odd is not None:
            raise ValueError(f"an example has {len(odd.tokens)} tokens, but says of {len(odd.train)} whether to train")
        if any(e.train[0] for e in examples):
            raise ValueError("an example trains on its first token, which nothing predicts")
        packed = Packed.of([e.tokens for e in examples], share=share)
        mask = torch.tensor([flag for e in examples for flag in e.train])
        place = mask.nonzero()[:, 0]
        if not len(place):
            raise ValueError("no token of this batch is trained: check the masks and the maximum length")
        segment = torch.repeat_interleave(torch.arange(len(packed.lengths)), torch.tensor(packed.lengths))
        index = place - 1 if packed.source is None else packed.source[place - 1]
        return cls(packed, index, packed.whole[place], segment[place])

    @property
    def units(self) -> int:
        """The number of tokens that count, M."""
        return len(self.target)


class Lazy(Sequence[T]):
    """A sequence whose items are made when they are asked for, so that a million of them never lie in memory together.

    `make` gives the items at the places asked for, in that order, and the same ones every time.
    """

    def __init__(self, count: int, make: Callable[[Sequence[int]], list[T]]) -> None:
        self._places, self.make = range(count), make

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return self.make(self._places[at])
        return self.make([self._places[at]])[0]

    def __iter__(self) -> Iterator[T]:
        for start in range(0, len(self), PAGE):
            yield from self[start : start + PAGE]


def gather(items: Sequence[T], places: Sequence[int]) -> list[T]:
    """The items at these places; those of a lazy sequence are made together."""
    return items.make(places) if isinstance(items, Lazy) else [items[i] for i in places]


@lru_cache(maxsize=2)
def _order(total: int, epoch: int, seed: int) -> Tensor:
    """(total,) int64: the order of one pass; kept, because drawing that of a million items takes 20 ms."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))


def pick(total: int, size: int, step: int, seed: int) -> list[int]:
    """The items of batch number `step` of an endless, reshuffled pass over `total` items.

    A function of its arguments alone, so that a resumed run needs no cursor but the step.
    """
    chosen: list[int] = []
    at = step * size
    while len(chosen) < size:
        epoch, offset = divmod(at + len(chosen), total)
        chosen += _order(total, epoch, seed)[offset : offset + size - len(chosen)].tolist()
    return chosen


def cut(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Items cut into consecutive groups of at most `most` tokens each, as indices; a longer item goes alone."""
    groups: list[list[int]] = []
    filled = most + 1
    for i, length in enumerate(lengths):
        if filled + length > most:
            groups.append([])
            filled = 0
        groups[-1].append(i)
        filled += length
    return groups
