"""What an answer should and should not be, by kind of request: the rulebook of rule-based rewards.

Mu et al. 2024, "Rule Based Rewards for Language Model Safety", section 4.1 (the idea is GPT-4's, OpenAI 2023, system
card, section 3.2). A proposition is a statement about an answer that is true or false. For each behaviour (refuse,
comply, ...) it is desired, undesired, or of no matter. From that follow an answer's class, ideal, less good or
unacceptable, and the features whose weights `rule_weights.py` fits.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from tutelage.config import Section
from tutelage.errors import ConfigError, DataError
from tutelage.feedback.files import whole_rows
from tutelage.records import Prompt
from tutelage.settings import read_yaml

Numbers = NDArray[np.float64]
OURS = Path(__file__).parent / "rulebooks"
CLASSES = ("ideal", "less good", "unacceptable")


class PropositionsConfig(Section):
    """Rule-based rewards: what is graded, by whom, and what the weights are fitted on."""

    rulebook: str = "safety"
    """Propositions and behaviours: ours by name (safety), or a YAML file of your own."""
    grader: Literal["fitted", "judge"] = "fitted"
    """Who says how probable each proposition is: a classifier fitted on `labelled`, or the judge of `judge.panel`."""
    reader: str = ""
    """A model whose hidden states the classifier reads beside the words, by name or folder; empty for words alone."""
    labelled: Path | None = None
    """JSON lines of answers with their true propositions, from the project folder on; see the page."""
    behaviours: Path | None = None
    """JSON lines of prompts with the behaviour that each asks for."""
    otherwise: str = "comply"
    """The behaviour that prompts not named there ask for."""
    pairs: Literal["labelled", "comparisons"] = "labelled"
    """Weights are fitted on labelled answers to one prompt, ranked by class, or on the store's comparisons."""
    decay: Annotated[float, Field(gt=0)] = 0.01
    """Weight of the squared weights, λ/2·‖w‖², beside the mean hinge loss."""


class Proposition(Section):
    """A statement about an answer, and where it is wanted."""

    id: str
    text: str
    """A sentence about the answer that is true or false."""
    desired: tuple[str, ...] = ()
    """Behaviours that it belongs to."""
    undesired: tuple[str, ...] = ()
    """Behaviours that it spoils."""
    unacceptable: tuple[str, ...] = ()
    """Behaviours that it rules out."""

    def sign(self, behaviour: str) -> int:
        """1 where it is desired, −1 where it is undesired or unacceptable, else 0."""
        return int(behaviour in self.desired) - int(behaviour in self.undesired + self.unacceptable)


@dataclass(frozen=True)
class Feature:
    """One number of an answer: the probability of a proposition, for requests of one behaviour; 0 for others."""

    behaviour: str
    proposition: int
    sign: int
    """Of its weight, if people and rules agree."""


class Rulebook(Section):
    """Behaviours and propositions."""

    behaviours: dict[str, str]
    """What each behaviour is, in words."""
    propositions: tuple[Proposition, ...]

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        twice = sorted({i for i in self.ids if self.ids.count(i) > 1})
        if twice:
            raise ValueError(f"two propositions have the id {twice[0]!r}: an id is one proposition's")
        for one in self.propositions:
            named = one.desired + one.undesired + one.unacceptable
            unknown = sorted(set(named) - set(self.behaviours))
            if unknown:
                raise ValueError(f"{one.id} names the behaviour {unknown[0]!r}; there are {[*self.behaviours]}")
            if len(set(named)) < len(named):
                raise ValueError(f"{one.id} names a behaviour twice: it is desired, undesired or unacceptable there")
        return self

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the propositions, in their order."""
        return tuple(one.id for one in self.propositions)

    @property
    def features(self) -> tuple[Feature, ...]:
        """F of them: each behaviour with each proposition that matters for it."""
        numbered = list(enumerate(self.propositions))
        return tuple(Feature(b, i, one.sign(b)) for b in self.behaviours for i, one in numbered if one.sign(b))

    def phi(self, probabilities: Numbers, behaviours: Sequence[str]) -> Numbers:
        """Features (n, F) of n answers from the probabilities (n, P) of all propositions."""
        columns = [
            probabilities[:, f.proposition] * np.array([float(b == f.behaviour) for b in behaviours])
            for f in self.features
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((len(behaviours), 0))

    def rank(self, truth: Mapping[str, bool], behaviour: str) -> int:
        """The place of an answer's class among CLASSES: 0 ideal, 1 less good, 2 unacceptable."""
        if any(truth[one.id] for one in self.propositions if behaviour in one.unacceptable):
            return 2
        return int(any(truth[one.id] != (s > 0) for one in self.propositions if (s := one.sign(behaviour))))

    def behaviour(self, name: str, where: str) -> str:
        """A behaviour as files write it ("Hard Refuse", "Safe Refuse 2"). Raises DataError for one there is not."""
        found = re.sub(r"_\d+$", "", re.sub(r"[\s-]+", "_", name.strip().casefold()))
        if found not in self.behaviours:
            raise DataError(f"{where}: there is no behaviour {name!r} in the rulebook; it has {[*self.behaviours]}")
        return found


def read_rulebook(name: str | Path) -> Rulebook:
    """One of ours by name, or a file of your own. Raises ConfigError naming file and key."""
    path = OURS / f"{name}.yaml"
    path = path if path.is_file() else Path(name)
    try:
        return Rulebook.model_validate(read_yaml(path))
    except ValidationError as error:
        fault = error.errors()[0]
        place = "".join(f", {part}" for part in fault["loc"])
        raise ConfigError(f"{path}{place}: {fault['msg'].removeprefix('Value error, ')}") from error


@dataclass(frozen=True)
class Labelled:
    """An answer of which people said what is true."""

    prompt: Prompt
    text: str
    behaviour: str
    truth: Mapping[str, bool]
    """By proposition id; every one of the rulebook."""


def read_labelled(path: Path, book: Rulebook) -> list[Labelled]:
    """JSON lines with `prompt`, `completion`, `propositions` and `behaviour` (or `response_type`, as OpenAI's set has).

    Texts are strings or lists of messages. Raises DataError naming file and line.
    """
    found = []
    for where, row in whole_rows(path):
        try:
            said = row["completion"]
            text = said if isinstance(said, str) else said[-1]["content"]
            truth = {i: bool(row["propositions"][i]) for i in book.ids}
            behaviour = book.behaviour(row["behaviour"] if "behaviour" in row else row["response_type"], where)
            found.append(Labelled(_prompt(row["prompt"]), text, behaviour, truth))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(f"{where}: this is not an answer with its propositions: {_fault(error)}") from error
    if not found:
        raise DataError(f"{path} holds no labelled answers")
    return found


def read_behaviours(path: Path, book: Rulebook) -> dict[str, str]:
    """JSON lines with `prompt` and `behaviour`: behaviours by prompt id. A string is both a text and a user's turn.

    Raises DataError naming file and line.
    """
    found: dict[str, str] = {}
    for where, row in whole_rows(path):
        try:
            prompts = read_prompt(row)
            behaviour = book.behaviour(row["behaviour"], where)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{where}: this is not a prompt with its behaviour: {_fault(error)}") from error
        found |= {prompt.id: behaviour for prompt in prompts}
    return found


def read_tagged(path: Path) -> list[Prompt]:
    """JSON lines with `prompt`, a string in both of its forms. Raises DataError naming file and line."""
    found: list[Prompt] = []
    for where, row in whole_rows(path):
        try:
            found += read_prompt(row)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{where}: this is no prompt: {_fault(error)}") from error
    return found


def read_prompt(row: Mapping[str, Any]) -> tuple[Prompt, ...]:
    """A row's prompt; a bare text may be either form of a prompt, so both."""
    said = row["prompt"]
    return (Prompt.text(said), Prompt.user(said)) if isinstance(said, str) else (_prompt(said),)


def _prompt(said: Any) -> Prompt:
    return Prompt.user(said) if isinstance(said, str) else Prompt.model_validate({"messages": said})


def _fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"]
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def ranked_pairs(labelled: Sequence[Labelled], book: Rulebook) -> list[tuple[int, int]]:
    """(better, worse), as places: two answers to one prompt of different classes (Mu et al. 2024, section 4.2)."""
    by_prompt: dict[str, list[int]] = {}
    for place, one in enumerate(labelled):
        by_prompt.setdefault(one.prompt.id, []).append(place)
    rank = [book.rank(one.truth, one.behaviour) for one in labelled]
    found = [pair for places in by_prompt.values() for pair in combinations(places, 2)]
    return [(a, b) if rank[a] < rank[b] else (b, a) for a, b in found if rank[a] != rank[b]]
