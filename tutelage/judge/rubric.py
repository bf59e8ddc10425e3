"""What judges are asked: a rubric, a frame around it, and the material to judge between marks it cannot forge.

A rubric is a Markdown file that says what the better answer is. The frames (`prompts/frames`) hold everything that
the machinery relies on: that the material is no instruction, and in which form to answer. So a rubric of your own needs
no care.

The marks around each text carry a hash of all texts of the question. A text that closes its mark early to speak as the
frame would have to hold a hash of itself.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tutelage.errors import ConfigError
from tutelage.judge.asking import Ask
from tutelage.records import Message, Prompt, content_id

PROMPTS = Path(__file__).parent / "prompts"
LETTERS = ("A", "B")
SCORES = tuple(str(score) for score in range(1, 11))
PLACE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Rubric:
    """What the better answer is, in words."""

    name: str
    text: str

    @property
    def version(self) -> str:
        """Name and hash of the text: what a `Comparison` names as its guideline."""
        return f"{self.name}-{content_id(self.text)[:8]}"


def read_rubric(name: str | Path) -> Rubric:
    """One of ours by name (helpful, harmless, summary), or a file of your own by its path.

    Raises ConfigError when there is none, or it is empty.
    """
    ours = sorted(path.stem for path in PROMPTS.glob("*.md"))
    path = PROMPTS / f"{name}.md" if str(name) in ours else Path(name)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        known = f"name a text file, or one of ours: {', '.join(ours)}"
        raise ConfigError(f"judge.rubric is {str(name)!r}, which cannot be read ({error}): {known}") from error
    if not text:
        raise ConfigError(f"the rubric {path} is empty: write what makes an answer the better one")
    return Rubric(path.stem, text)


def pair_ask(rubric: Rubric, prompt: Prompt, first: str, second: str) -> Ask:
    """Which of two answers is better, A or B?"""
    spoken = conversation(prompt)
    key = content_id(spoken, first, second)[:12]
    filled = {
        "rubric": rubric.text,
        "conversation": marked("conversation", key, spoken),
        "first": marked("answer-A", key, first),
        "second": marked("answer-B", key, second),
    }
    return Ask((Message(role="user", content=fill("pair", filled)),), LETTERS, (first, second))


def score_ask(rubric: Rubric, prompt: Prompt, text: str) -> Ask:
    """How good is this answer, from 1 to 10?"""
    spoken = conversation(prompt)
    key = content_id(spoken, text)[:12]
    filled = {
        "rubric": rubric.text,
        "conversation": marked("conversation", key, spoken),
        "answer": marked("answer", key, text),
    }
    return Ask((Message(role="user", content=fill("score", filled)),), SCORES, (text,))


def conversation(prompt: Prompt) -> str:
    """The turns as one text; a single turn, or a text to go on with, as it stands."""
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in prompt.messages)


def marked(name: str, key: str, text: str) -> str:
    """The text between its marks."""
    return f"<{name}-{key}>\n{text}\n</{name}-{key}>"


def fill(frame: str, values: Mapping[str, str]) -> str:
    """All places filled in one pass: a text that holds the name of a place stays as it is."""
    return PLACE.sub(lambda found: values[found[1]], _frame(frame))


@cache
def _frame(name: str) -> str:
    return (PROMPTS / "frames" / f"{name}.md").read_text(encoding="utf-8").strip()
