"""What the frozen source model says of completions, computed once and kept in the run's folder.

The file holds the source's fingerprint and a checksum of every item's tokens. A resumed run reads it, goes on where the
computation was stopped, and refuses it when model or data are others than those the run began with.
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from tutelage.checkpoint import TEMPORARY, sync
from tutelage.errors import CheckpointError, Interrupted
from tutelage.learn.rollout import response_batch
from tutelage.model.batch import cut, gather
from tutelage.model.heads import Policy
from tutelage.model.maths import segment_sum
from tutelage.progress import progress
from tutelage.runs import Run

FILE = "reference.safetensors"
TOGETHER = 256  # items between two looks at whether to stop


class Item(Protocol):
    """Sequences that begin with one prompt."""

    @property
    def sequences(self) -> tuple[tuple[int, ...], ...]:
        """K: prompt and completion."""

    @property
    def prompt(self) -> int:
        """Tokens of the prompt."""


@torch.no_grad()
def completion_logprobs(policy: Policy, items: Sequence[Item], micro_tokens: int) -> list[Tensor]:
    """log π(completion | prompt) in nats of every sequence: a tensor (K,) for each item."""
    rows = [(s, item.prompt) for item in items for s in item.sequences]
    sums = []
    for part in cut([len(s) for s, _ in rows], micro_tokens):
        batch = response_batch([rows[i][0] for i in part], [rows[i][1] for i in part])
        sums.append(segment_sum(policy(batch).logprob, batch.segment, len(part)))
    return list(torch.split(torch.cat(sums), [len(item.sequences) for item in items]))


class Reference:
    """Log-probabilities under the source by (set, place), such as ("train", 7)."""

    def __init__(self, source: str, known: Mapping[tuple[str, int], tuple[int, Tensor]]) -> None:
        self.source = source  # the model's fingerprint
        self.known = dict(known)  # checksum of the tokens, log-probabilities (K,)

    def of(self, name: str, places: Sequence[int], items: Sequence[Item]) -> list[Tensor]:
        """(K,) for each of these items. Raises CheckpointError when one is not what it was."""
        rows = [self.known[name, place] for place in places]
        for place, item, (checksum, _) in zip(places, items, rows, strict=True):
            if checksum != _checksum(item):
                raise CheckpointError(f"item {place} of {name} is not what it was when the run began: start a new run")
        return [logprob for _, logprob in rows]

    def save(self, path: Path) -> None:
        """Write all of it so that a reader sees the old file or the new. Raises CheckpointError when it cannot."""
        rows = self.known.items()
        tensors = {
            "evaluation": torch.tensor([name == "evaluation" for (name, _), _ in rows]),
            "place": torch.tensor([place for (_, place), _ in rows]),
            "checksum": torch.tensor([checksum for _, (checksum, _) in rows]),
            "count": torch.tensor([len(logprob) for _, (_, logprob) in rows]),
            "logprob": torch.cat([logprob for _, (_, logprob) in rows]),
        }
        temporary = path.with_name(f"{TEMPORARY}{path.name}")
        try:
            save_file(tensors, temporary, metadata={"source": self.source})
            sync(temporary)
            temporary.replace(path)
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error}. Free some disk space, then resume.") from error

    @classmethod
    def load(cls, path: Path) -> "Reference":
        """What `save` wrote."""
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            source = file.metadata()["source"]
        names = ["evaluation" if held_out else "train" for held_out in found["evaluation"].tolist()]
        logprobs = torch.split(found["logprob"], found["count"].tolist())
        rows = zip(names, found["place"].tolist(), found["checksum"].tolist(), logprobs, strict=True)
        return cls(source, {(name, place): (checksum, logprob) for name, place, checksum, logprob in rows})


def check_source(run: Run, began: str, source: str) -> None:
    """Raises CheckpointError when the model is another than the run began with."""
    if began != source:
        raise CheckpointError(
            f"{run.id} began with another reference model ({began}, this is {source}): resume it with the model it "
            "began with, or start a new run"
        )


def reference_logprobs(
    policy: Policy,
    source: str,
    wanted: Mapping[str, tuple[Sequence[Item], Sequence[int]]],
    run: Run,
    micro_tokens: int,
) -> Reference:
    """The log-probabilities of the items wanted (set → items, places), read from the run's folder or computed into it.

    `source` is the policy's fingerprint. Raises CheckpointError when the file is of another, Interrupted when the user
    asked to stop; what was computed is kept.
    """
    path = run.path / FILE
    reference = Reference.load(path) if path.exists() else Reference(source, {})
    check_source(run, reference.source, source)
    with progress("Reference", sum(len(places) for _, places in wanted.values())) as report:
        done = 0
        for name, (items, places) in wanted.items():
            for at in range(0, len(places), TOGETHER):
                part = places[at : at + TOGETHER]
                if any((name, place) not in reference.known for place in part):
                    chosen = gather(items, part)
                    found = completion_logprobs(policy, chosen, micro_tokens)
                    rows = zip(part, chosen, found, strict=True)
                    reference.known |= {(name, place): (_checksum(item), row) for place, item, row in rows}
                    reference.save(path)
                    if run.stop_requested:
                        raise Interrupted(f"stopped while computing the reference; go on with --resume {run.id}")
                done += len(part)
                report(done)
    return reference


def _checksum(item: Item) -> int:
    """Of the tokens of its sequences."""
    return zlib.crc32(repr((item.prompt, item.sequences)).encode())
