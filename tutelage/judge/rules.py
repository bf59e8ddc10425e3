"""Rewards that a program can verify: a pattern, the exact answer, the final number, instructions. Sums with weights.

A rule gives 0 to 1. What is right for a prompt stands in the rule itself, in the prompt's demonstrations in the store
(a worked solution ending in `#### 72`), or in a file of instructions in IFEval's form.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal, assert_never

from pydantic import Field, ValidationError, field_validator

from tutelage.checkpoint import lines_of
from tutelage.config import Section
from tutelage.errors import DataError
from tutelage.judge.instructions import Instruction, followed
from tutelage.records import Prompt

NUMBER = re.compile(r"(?<![\w.])[-−]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+|/\d+)?|\.\d+)")
MARKED = re.compile(r"####\s*([^\n]*)|\\boxed\{([^{}]*)\}")
LONGEST_NUMBER = 40  # digits; longer ones are no answers


class Regex(Section):
    """1 where a pattern is found."""

    kind: Literal["regex"] = "regex"
    pattern: str
    """Python regular expression, searched in the whole text; `(?i)`, `(?m)` and `(?s)` as usual."""
    weight: float = 1.0
    """Of this rule in the sum; below 0 for what must not be found."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return pattern


class Exact(Section):
    """1 where the text is the answer, but for case, white space and punctuation at its ends."""

    kind: Literal["exact"] = "exact"
    answer: str | None = None
    """The answer to every prompt; none for the prompt's own: any of its demonstrations."""
    weight: float = 1.0
    """Of this rule in the sum."""


class Number(Section):
    r"""1 where the text's final number is the answer's: that behind `####`, in `\boxed{}`, or else the last (GSM8K)."""

    kind: Literal["number"] = "number"
    answer: str | None = None
    """The answer to every prompt; none for the prompt's own: the final number of any of its demonstrations."""
    weight: float = 1.0
    """Of this rule in the sum."""


class Instructions(Section):
    """The share of a prompt's instructions that the text follows."""

    kind: Literal["instructions"] = "instructions"
    follow: tuple[Instruction, ...] = ()
    """Instructions for every prompt."""
    file: Path | None = None
    """JSON lines with `prompt`, `instruction_id_list` and `kwargs` (IFEval's form) for the prompts they name."""
    all_or_nothing: bool = False
    """1 when every instruction is followed, else 0."""
    weight: float = 1.0
    """Of this rule in the sum."""


Rule = Annotated[Regex | Exact | Number | Instructions, Field(discriminator="kind")]


class RulesConfig(Section):
    """Rewards by rule."""

    checks: tuple[Rule, ...] = ()
    """The rules; the reward is the sum of weight × (0 to 1)."""


def final_number(text: str) -> Fraction | None:
    """The number a text arrives at: the first behind its last mark, or else its last; None without one."""
    marked = [one for pair in MARKED.findall(text) for one in pair if one]
    found = numbers(marked[-1])[:1] if marked else numbers(text)[-1:]
    return found[0] if found else None


def numbers(text: str) -> list[Fraction]:
    """Every number of a text, exactly: 7, -1,234.50, .5 and 3/4 are numbers, 12a, 1.2.3 and 5/0 are not."""
    made = []
    for match in NUMBER.finditer(text):
        digits = match[0].replace(",", "").replace("−", "-")
        glued = re.match(r"[^\W_]|\.\d|/\d", text[match.end() : match.end() + 2])
        over = digits.partition("/")[2]
        if not glued and len(digits) <= LONGEST_NUMBER and not (over and int(over) == 0):
            made.append(Fraction(digits))
    return made


def plainly(text: str) -> str:
    """A text without case, doubled spaces, and punctuation and spaces at its ends."""
    return re.sub(r"\s+", " ", text).strip(" \t.,;:!?\"'`*").casefold()


@dataclass(frozen=True)
class RuleReward:
    """`reward(prompt, text)`, or of many at once: `rewards`."""

    rules: tuple[Rule, ...]
    answers: Mapping[str, tuple[str, ...]]
    """By prompt id: the demonstrations of it."""
    instructions: Mapping[str, tuple[Instruction, ...]]
    """By prompt id: what the files say of it."""

    def __call__(self, prompt: Prompt, text: str) -> float:
        """The weighted sum. Raises DataError when a rule has nothing to hold the text against."""
        return sum(rule.weight * self._value(rule, prompt, text) for rule in self.rules)

    def rewards(self, answers: Sequence[tuple[Prompt, str]]) -> list[float]:
        """One for each answer, in their order."""
        return [self(prompt, text) for prompt, text in answers]

    def check(self, prompt: Prompt) -> None:
        """Raises DataError when a rule cannot judge answers to this prompt."""
        self(prompt, "")

    def _value(self, rule: Rule, prompt: Prompt, text: str) -> float:
        match rule:
            case Regex():
                return float(re.search(rule.pattern, text) is not None)
            case Exact():
                return float(plainly(text) in [plainly(one) for one in self._right(rule, prompt)])
            case Number():
                right = [final_number(one) for one in self._right(rule, prompt)]
                found = final_number(text)
                return float(found is not None and found in right)
            case Instructions():
                asked = rule.follow + self.instructions.get(prompt.id, ())
                if not asked:
                    raise DataError(f"no instruction is given for the prompt that starts {_start(prompt)!r}")
                done = [followed(one, text) for one in asked]
                return float(all(done)) if rule.all_or_nothing else sum(done) / len(done)
        assert_never(rule)

    def _right(self, rule: Exact | Number, prompt: Prompt) -> tuple[str, ...]:
        right = self.answers.get(prompt.id, ()) if rule.answer is None else (rule.answer,)
        if isinstance(rule, Number):
            right = tuple(one for one in right if final_number(one) is not None)
        if not right:
            raise DataError(
                f"rule {rule.kind} has no answer for the prompt that starts {_start(prompt)!r}: import a demonstration "
                "of it that holds the answer, or give the rule one"
            )
        return right


def _start(prompt: Prompt) -> str:
    return prompt.messages[-1].content[:40]


def read_instructions(path: Path) -> dict[str, tuple[Instruction, ...]]:
    """A file in IFEval's form: instructions by prompt id, for the prompt as a bare text and as a user's turn.

    Raises DataError naming file and line.
    """
    found: dict[str, tuple[Instruction, ...]] = {}
    try:
        lines = lines_of(path)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            pairs = zip(row["instruction_id_list"], row["kwargs"], strict=True)
            made = tuple(
                Instruction(id=name, arguments={k: v for k, v in given.items() if v is not None})
                for name, given in pairs
            )
            prompts = (Prompt.text(row["prompt"]), Prompt.user(row["prompt"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            fault = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise DataError(f"{path}, line {number}: this is not a prompt with its instructions: {fault}") from error
        found |= {prompt.id: made for prompt in prompts}
    return found
