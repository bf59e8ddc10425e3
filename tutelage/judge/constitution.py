"""A constitution: principles in a YAML file, and what is asked by them (Bai et al. 2022, "Constitutional AI").

A principle asks three things: what is wrong with an answer (`critique`), to mend that (`revision`), and which of two
answers is the better one (`comparison`). Which principles a question gets is a function of the seed and the question.
"""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import Field, StringConstraints, ValidationError, field_validator
from pydantic_core import ErrorDetails

from tutelage.config import Section
from tutelage.errors import ConfigError
from tutelage.judge.asking import Ask
from tutelage.judge.rubric import Rubric, conversation, fill, marked
from tutelage.records import Message, Prompt, content_id

OURS = Path(__file__).parent / "constitutions"
MOST_ROUNDS = 8  # with the answer they begin with, they are one question to people
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Tag = Literal["harmlessness", "helpfulness"]


class Principle(Section):
    """One rule, as three requests in words."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    """Its name: small letters, digits and dashes."""
    tag: Tag
    """Which side of an answer it is about."""
    critique: Text
    """Asks what is wrong with an answer."""
    revision: Text
    """Asks to mend what the critique found."""
    comparison: Text
    """Asks which of two answers is better."""

    @property
    def rubric(self) -> Rubric:
        """The comparison, as judges of pairs are asked."""
        return Rubric(self.id, self.comparison)


class Constitution(Section):
    """Principles, by one of which, drawn at random, each answer is judged."""

    name: Text
    """What people call it."""
    language: Text
    """The language it is written in: en, zh."""
    principles: Annotated[tuple[Principle, ...], Field(min_length=1)]
    """The rules."""

    @field_validator("principles")
    @classmethod
    def _all_different(cls, principles: tuple[Principle, ...]) -> tuple[Principle, ...]:
        ids = [principle.id for principle in principles]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"several principles have the id {', '.join(twice)}: give each its own")
        return principles

    @property
    def rubric(self) -> Rubric:
        """All of it as one text: its version is what labels name as their guideline."""
        return Rubric(self.name, self.model_dump_json())

    @property
    def version(self) -> str:
        """Name and hash of the text."""
        return self.rubric.version

    def of(self, tags: Literal["both"] | Tag) -> "Constitution":
        """With the principles of one tag alone. Raises ConfigError when there are none."""
        kept = tuple(one for one in self.principles if tags in ("both", one.tag))
        if not kept:
            raise ConfigError(f"constitution.tags is {tags!r}, but no principle of {self.name} has that tag")
        return self.model_copy(update={"principles": kept})

    def draw(self, count: int, seed: int, *question: str) -> tuple[Principle, ...]:
        """That many principles for a question: none comes twice before all came once, all equally likely.

        The same seed and question always draw the same.
        """
        rng = np.random.default_rng(int(content_id("principles", str(seed), *question)[:16], 16))
        order = [i for _ in range(-(-count // len(self.principles))) for i in rng.permutation(len(self.principles))]
        return tuple(self.principles[i] for i in order[:count])


class ConstitutionConfig(Section):
    """Critique, revision and comparison by a constitution."""

    file: str = "en"
    """The constitution: en, zh, or a YAML file of your own."""
    tags: Literal["both", "harmlessness", "helpfulness"] = "both"
    """Which principles are drawn."""
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = 4
    """Rounds of critique and revision of each answer."""
    keep: Literal["all", "last"] = "last"
    """Which revisions become demonstrations: the last of each answer, or those of every round."""
    room: Annotated[int, Field(ge=1)] = 512
    """Most tokens of a critique, of a revision, and of the thoughts before a comparison."""
    ensemble: Annotated[int, Field(ge=1)] = 16
    """Principles drawn for each pair; the label is their mean. No more than there are."""
    think: bool = False
    """Let judges think aloud before each comparison (chain of thought)."""
    clamp: Annotated[float | None, Field(ge=0, lt=0.5)] = None
    """Soft labels stay between this and 1 − this; none for 0.4 with `think`, as published, and 0 without."""

    @property
    def bound(self) -> float:
        """The clamp in force."""
        if self.clamp is not None:
            return self.clamp
        return 0.4 if self.think else 0.0


def read_constitution(name: str | Path) -> Constitution:
    """One of ours by name (en, zh), or a file of your own. Raises ConfigError naming file, line and field."""
    ours = sorted(path.stem for path in OURS.glob("*.yaml"))
    path = OURS / f"{name}.yaml" if str(name) in ours else Path(name)
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        found = loader.construct_document(node) if node else None
    except (OSError, UnicodeDecodeError) as error:
        known = f"name a YAML file, or one of ours: {', '.join(ours)}"
        raise ConfigError(f"constitution.file is {str(name)!r}, which cannot be read ({error}): {known}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}, line {line}: this is not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: this is not YAML: {' '.join(str(error).split())}") from error
    if node is None or not isinstance(found, dict):
        raise ConfigError(f"{path}, line 1: found {found!r}, expected the keys name, language and principles")
    try:
        return Constitution.model_validate(found)
    except ValidationError as error:
        faults = error.errors()
        inside = {fault["loc"][:1] for fault in faults if len(fault["loc"]) > 1}
        told = [fault for fault in faults if fault["loc"] not in inside]  # not of a list whose items are at fault
        raise ConfigError("\n".join(_explain(path, node, fault) for fault in told)) from error


def critique_ask(principle: Principle, prompt: Prompt, text: str, room: int) -> Ask:
    """What is wrong with an answer by this principle? An open question."""
    spoken = conversation(prompt)
    key = content_id(spoken, text)[:12]
    filled = {
        "conversation": marked("conversation", key, spoken),
        "answer": marked("answer", key, text),
        "request": principle.critique,
    }
    return Ask((Message(role="user", content=fill("critique", filled)),), (), (text,), room)


def revision_ask(principle: Principle, asked: Ask, critique: str, room: int) -> Ask:
    """The answer rewritten: an open question that goes on from `asked`, which the critique answers."""
    request = Message(role="user", content=fill("revision", {"request": principle.revision}))
    return Ask(
        (*asked.messages, Message(role="assistant", content=critique), request), (), (*asked.texts, critique), room
    )


def _explain(path: Path, node: yaml.Node, fault: ErrorDetails) -> str:
    """One fault with file, line and field."""
    where = ".".join(str(part) for part in fault["loc"]) or "the file"
    line = _line(node, fault["loc"])
    match fault["type"]:
        case "missing":
            said = (
                "is missing: every principle has id, tag, critique, revision and comparison, the file name and language"
            )
        case "extra_forbidden":
            said = "is no field of a constitution: take it out, or mend its name"
        case "value_error":
            said = f"does not hold: {fault['msg'].removeprefix('Value error, ')}"
        case _:
            said = f"is {fault['input']!r}: {fault['msg']}"
    return f"{path}, line {line}: '{where}' {said}"


def _line(node: yaml.Node, loc: tuple[int | str, ...]) -> int:
    """The line of a field, or of what lacks it."""
    line = node.start_mark.line
    for part in loc:
        found: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            key, found = next((pair for pair in node.value if pair[0].value == part), (node, None))
            line = key.start_mark.line if found else line
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = node.value[part]
            line = found.start_mark.line
        if found is None:
            break
        node = found
    return line + 1
