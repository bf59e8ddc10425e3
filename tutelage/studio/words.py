"""What the raters' pages say from code: kinds of work, scales, flags, reasons, keys. English; `_` marks what is
translated where it is shown."""

from collections.abc import Callable

from tutelage.feedback.work import Kind, Nothing, Reason

Translate = Callable[[str], str]


def _(message: str) -> str:
    """A message to be translated when it is shown."""
    return message


TITLES: dict[Kind, str] = {
    "demonstration": _("Write the answer"),
    "comparison": _("Compare two answers"),
    "ranking": _("Rank the answers"),
    "rating": _("Rate the answer"),
    "edit": _("Improve the answer"),
    "versus": _("Which is better?"),
    "chat": _("Talk, and choose the better reply"),
}
SCALE = (  # how much better the left (negative) or right one is, as it stands on the screen
    (-4, _("far better")),
    (-3, _("clearly")),
    (-2, _("somewhat")),
    (-1, _("barely")),
    (0, _("tie")),
    (1, _("barely")),
    (2, _("somewhat")),
    (3, _("clearly")),
    (4, _("far better")),
)
FLAGS = (  # InstructGPT (Ouyang et al. 2022), table 3
    ("fails-task", _("Fails the task")),
    ("inappropriate", _("Inappropriate for an assistant")),
    ("hallucination", _("Makes things up")),
    ("ignores-constraint", _("Ignores a constraint")),
    ("sexual", _("Sexual content")),
    ("violent", _("Violent content")),
    ("encourages-harm", _("Encourages harm, or does not discourage it")),
    ("denigrates", _("Denigrates a group of people")),
    ("harmful-advice", _("Gives harmful advice")),
    ("opinion", _("Expresses an opinion")),
    ("moral-judgment", _("Expresses a moral judgment")),
)
SKIP_REASONS = (
    ("knowledge", _("I do not know enough about this")),
    ("unclear", _("The task makes no sense")),
    ("language", _("It is in a language I do not read")),
    ("upsetting", _("I do not want to look at this")),
    ("other", _("Another reason")),
)
REASONS: dict[Reason, str] = {
    "finished": _("Every item here has its answers. Thank you."),
    "leased": _("Others hold what is left. It comes back when they finish or their time is up."),
    "done": _("You have answered or skipped all that is here; what is left is for others."),
    "deadline": _("The deadline has passed."),
    "paused": _("The leads have paused or closed this work."),
    "onboarding": _("A short test comes first."),
    "failed": _("The test was not passed. Ask whoever leads the project."),
    "nothing": _("No work is open for you. When a lead opens some, it appears here."),
}
UNTIL = _("{why} At the latest in {minutes} minutes.")
_CHOICE: dict[Kind, tuple[tuple[str, str], ...]] = {
    "demonstration": (),
    "comparison": (("1 … 9", _("how much better, from left to right")), ("=", _("tie"))),
    "ranking": (
        ("1 … 9", _("place this answer behind those placed so far")),
        ("=", _("the next one ties with the last")),
        ("Backspace", _("take the last one back")),
        ("Alt ↑ ↓", _("move the chosen number up or down, into and out of ties")),
    ),
    "rating": (("1 … 7", _("the score")), ("w", _("what is wrong with it"))),
    "edit": (),
    "versus": (("1 2 3", _("left, tie, right")), ("=", _("tie"))),
    "chat": (
        ("1 2 3", _("left, tie, right")),
        ("=", _("tie")),
        ("Enter", _("choose")),
        ("e", _("end the conversation")),
    ),
}
_ALWAYS = (
    ("s", _("skip, with a reason")),
    ("f", _("flag for the leads")),
    ("u", _("back to the one before, to change it")),
    ("g", _("show or hide the guideline")),
    ("Esc", _("leave the text, so that keys work again")),
    ("?", _("these keys")),
)


def keys_of(kind: Kind, translate: Translate) -> list[tuple[str, str]]:
    """The keys of a page and what they do."""
    saving = {"demonstration": ("Ctrl Enter", _("save")), "edit": ("Ctrl Enter", _("save"))}.get(
        kind, ("Ctrl Enter", _("send")) if kind == "chat" else ("Enter", _("save and next"))
    )
    without = {"u"} if kind == "chat" else set()
    listed = (*_CHOICE[kind], saving, *(one for one in _ALWAYS if one[0] not in without))
    return [(key, translate(said)) for key, said in listed]


def why_not(nothing: Nothing, now: float, translate: Translate) -> str:
    """Why there is nothing to do; `now` in seconds since 1970."""
    why = translate(REASONS[nothing.reason])
    if nothing.reason != "leased" or nothing.until is None:
        return why
    return translate(UNTIL).format(why=why, minutes=max(1, round((nothing.until - now) / 60 + 0.5)))


def labelled(pairs: tuple[tuple[str, str], ...], translate: Translate) -> list[tuple[str, str]]:
    """Values with what is said for them, translated."""
    return [(value, translate(said)) for value, said in pairs]
