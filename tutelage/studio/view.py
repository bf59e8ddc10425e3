"""What pages of work are given to show. No completion's source is here, so no template can let a model's name slip."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tutelage.errors import StudioError
from tutelage.feedback.work import LONGEST_TEXT, Answer, Held, Kind, Ranked, Rated, Recent, Written
from tutelage.records import Message, Role, new_id
from tutelage.studio.masking import MASK, Masker
from tutelage.studio.text import Shown, markdown, plain, tame
from tutelage.studio.words import Translate, _

SNIPPET = 160  # characters


@dataclass(frozen=True)
class Turn:
    """One turn of what was asked."""

    role: Role
    text: Shown


@dataclass(frozen=True)
class Piece:
    """One completion, named by where it stands."""

    place: int
    letter: str
    text: Shown


@dataclass(frozen=True)
class Task:
    """An item as a page shows it, with the answer it has already, if it has one."""

    item: str
    batch: str
    kind: Kind
    key: str
    until: float
    guideline: str | None
    draft: str | None
    revision: int
    standing: bool
    asked: tuple[Turn, ...]
    pieces: tuple[Piece, ...]
    original: str
    """For an edit: the text as it was, names hidden."""
    preference: int | None
    """-4 to 4: how much better the left (negative) or right one is."""
    ranks: tuple[int, ...]
    score: int | None
    flags: tuple[str, ...]
    written: str


def turns_of(messages: Sequence[Message], masker: Masker) -> tuple[Turn, ...]:
    """A conversation as it is shown; what an assistant said is masked."""
    return tuple(
        Turn(m.role, plain(m.content))
        if m.role == "text"
        else Turn(m.role, markdown(masker.whole(m.content) if m.role == "assistant" else m.content))
        for m in messages
    )


def task_of(held: Held, masker: Masker) -> Task:
    """The item in a rater's hands, for the page."""
    shown = plain if held.messages[0].role == "text" else markdown
    texts = [masker.whole(text) for text in held.texts]
    letters = "123456789" if held.kind == "ranking" else "ABCDEFGHI"
    answer, original = held.answer, tame(texts[0]) if held.kind == "edit" else ""
    return Task(
        item=held.id,
        batch=held.batch,
        kind=held.kind,
        key=new_id(),
        until=held.until,
        guideline=held.guideline,
        draft=held.draft,
        revision=held.revision,
        standing=held.standing,
        asked=turns_of(held.messages, masker),
        pieces=tuple(Piece(i, letters[i], shown(text)) for i, text in enumerate(texts)),
        original=original,
        preference=_preference(held.kind, answer) if isinstance(answer, Ranked) else None,
        ranks=answer.ranks if isinstance(answer, Ranked) else (),
        score=answer.score if isinstance(answer, Rated) else None,
        flags=answer.flags if answer is not None else (),
        written=answer.text if isinstance(answer, Written) else original,
    )


def _preference(kind: Kind, answer: Ranked) -> int:
    left, right = answer.ranks[:2]
    size = 1 if kind == "versus" or answer.strength is None else answer.strength
    return 0 if left == right else -size if left < right else size


def answer_of(held: Held, fields: Mapping[str, str], flags: Sequence[str], masker: Masker) -> Answer:
    """The answer that a form's fields are. Raises StudioError 422 saying what is missing."""
    match held.kind:
        case "comparison":
            size = _number(fields, "preference", -4, 4)
            return Ranked(ranks=_sides(size), strength=abs(size) or None)
        case "versus" | "chat":
            return Ranked(ranks=preference_of(fields))
        case "ranking":
            k = len(held.texts)
            given = [_number(fields, f"rank-{place}", 1, k) for place in range(1, k + 1)]
            order = sorted(set(given))  # 1, 3, 3 means 1, 2, 2
            return Ranked(ranks=tuple(order.index(rank) + 1 for rank in given))
        case "rating":
            return Rated(score=_number(fields, "score", 1, 7), flags=tuple(flags))
        case "demonstration" | "edit":
            text = fields.get("text", "").replace("\r\n", "\n")  # how browsers send line breaks
            check_text(held, text, masker)
            return Written(text=text)


def preference_of(fields: Mapping[str, str]) -> tuple[int, int]:
    """The ranks of two by place, from a choice of left, tie or right. Raises StudioError 422 where there is none."""
    return _sides(_number(fields, "preference", -1, 1))


def _sides(size: int) -> tuple[int, int]:
    return (1, 1) if size == 0 else (1, 2) if size < 0 else (2, 1)


def whole(value: str) -> int | None:
    """A whole number out of a form; None for anything else, and for more digits than any of them needs."""
    return int(value) if value.isdecimal() and len(value) < 10 else None


def _number(fields: Mapping[str, str], name: str, least: int, most: int) -> int:
    value = fields.get(name, "")
    if not re.fullmatch(r"-?[0-9]", value) or not least <= int(value) <= most:
        raise StudioError(_("Choose an answer first."), 422)
    return int(value)


def check_text(held: Held, text: str, masker: Masker) -> None:
    """Raises StudioError 422 for a text that is no answer: blank, too long, or an edit that is unchanged or masked."""
    if not text.strip():
        raise StudioError(_("Write an answer first."), 422)
    if len(text) > LONGEST_TEXT:
        raise StudioError(_("This text is longer than 200,000 characters: shorten it."), 422)
    if held.kind == "edit":
        shown = masker.whole(held.texts[0])
        if text in (held.texts[0], shown, tame(shown)):
            raise StudioError(_("Nothing is changed yet. If nothing needs a change, skip it."), 422)
        if MASK in text:
            raise StudioError(_("Replace or remove “[name masked]” first."), 422)


@dataclass(frozen=True)
class Done:
    """One of a rater's own answers in their list."""

    asked: str
    said: str
    batch_name: str
    created: str
    moment: str
    """For people without scripts; with them it is told in their own time."""
    revision: int
    href: str | None
    """Where to correct it; None for a conversation, whose later turns rest on what was chosen."""


def done_of(recent: Recent, translate: Translate) -> Done:
    """An answer for the list of a rater's own."""
    asked = " ".join(tame(recent.messages[-1].content).split())
    return Done(
        asked=asked if len(asked) <= SNIPPET else f"{asked[:SNIPPET]}…",
        said=_told(recent, translate),
        batch_name=recent.batch_name,
        created=recent.created,
        moment=f"{recent.created[:16].replace('T', ' ')} UTC",
        revision=recent.revision,
        href=None if recent.kind == "chat" else f"/work/{recent.batch}/item/{recent.item}",
    )


def _told(recent: Recent, translate: Translate) -> str:
    """An answer in a few words."""
    match recent.answer:
        case Ranked() if recent.kind == "chat":
            return translate(_("A conversation: {count} choices")).format(count=recent.turns)
        case Ranked(ranks=ranks) if recent.kind == "ranking":
            tiers = [[str(i + 1) for i, r in enumerate(ranks) if r == rank] for rank in sorted(set(ranks))]
            return " > ".join(" = ".join(tier) for tier in tiers)
        case Ranked(ranks=(left, right, *_rest), strength=strength):
            said = _("Tie") if left == right else _("A is better") if left < right else _("B is better")
            return translate(said) + (f" ({strength})" if strength else "")
        case Rated(score=score, flags=flags):
            return f"{score}/7" + "".join(f" · {flag}" for flag in flags)
        case Written(text=text):
            words = " ".join(tame(text).split())
            return words if len(words) <= SNIPPET // 2 else f"{words[: SNIPPET // 2]}…"
    raise AssertionError(recent.answer)
