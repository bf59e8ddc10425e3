"""From what a judge wrote to how likely each option is: by token probabilities where there are any, else by reading.

Reading is strict. An answer is an option, perhaps dressed up ("**A**", "Answer: B."), or it is nothing.
"""

import re
from collections.abc import Mapping, Sequence

from tutelage.judge.asking import Reply, Usage

DRESS = " \t\r\n*_`\"'()[]{}<>.:,;!“”‘’▁Ġ"  # the last two are how some servers write a leading space
OPENING = re.compile(
    r"(?:(?:the|my)\s+)?(?:final\s+)?(?:answer|verdict|choice|score|rating|better\s+(?:answer|one))(?:\s+is)?",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"\b(?:i['’]m sorry|i am sorry|i apologi[sz]e|(?:can['’]?t|cannot|can not|won['’]?t|will not|unable to|not able to|"
    r"not comfortable|decline to|refuse to))\b",
    re.IGNORECASE,
)
SHOWN = 60  # characters of an answer that a reason quotes


def read_text(text: str, options: Sequence[str]) -> int | None:
    """Which option an answer is, or None. "A", "**A**." and "Answer: A" are A; "A or B" and "a" are nothing."""
    bare = text.strip(DRESS)
    opening = OPENING.match(bare)
    if opening:
        bare = bare[opening.end() :].strip(DRESS)
    return options.index(bare) if bare in options else None


def of_text(text: str, options: Sequence[str], usage: Usage) -> Reply:
    """A hard label: the option that was written, or why there is none."""
    found = read_text(text, options)
    if found is None:
        return Reply(None, reason=unread(text), said=text, usage=usage)
    certain = tuple(float(i == found) for i in range(len(options)))
    return Reply(certain, soft=False, said=text, usage=usage)


def of_words(text: str, *, cut: bool, usage: Usage) -> Reply:
    """The answer to an open question: the words without white space around them. None is not judged."""
    words = text.strip()
    if not words:
        return Reply(None, reason="empty answer", usage=usage)
    return Reply((), soft=False, said=words, cut=cut, usage=usage)


def unread(text: str) -> str:
    """Why an answer is none of the options."""
    kind = "refusal" if REFUSAL.search(text) else "malformed answer"
    return f"{kind}: {text.strip()[:SHOWN]!r}"


def of_tokens(
    written: Sequence[tuple[str, Mapping[str, float]]], options: Sequence[str], text: str, usage: Usage
) -> Reply | None:
    """A soft label from the tokens written, each with the probabilities of what could have stood in its place.

    The first token that is not only dress decides. An option of several tokens ("10" as "1" and "0") gets its share of
    the first one's probability where the second was written too. None when no option is among the alternatives.
    """
    place = next((i for i, (token, _) in enumerate(written) if token.strip(DRESS)), None)
    if place is None:
        return None
    first = _bare(written[place][1])
    share = [first.get(option, 0.0) for option in options]
    token = written[place][0].strip(DRESS)
    if token in options and place + 1 < len(written):
        following = _bare(written[place + 1][1])
        for i, option in enumerate(options):
            if option != token and option.startswith(token):
                longer = first[token] * following.get(option.removeprefix(token), 0.0)
                share[i] += longer
                share[options.index(token)] -= longer
    mass = min(sum(share), 1.0)
    if mass <= 0:
        return None
    return Reply(tuple(p / sum(share) for p in share), mass=mass, said=text, usage=usage)


def _bare(alternatives: Mapping[str, float]) -> dict[str, float]:
    """Probabilities of tokens without dress: " A" and "A" are one answer."""
    found: dict[str, float] = {}
    for token, probability in alternatives.items():
        bare = token.strip(DRESS)
        found[bare] = found.get(bare, 0.0) + probability
    return found
