"""Where the items of a batch come from: a sampling run's questions, prompts, or two models side by side."""

from collections.abc import Iterable, Iterator, Sequence

from tutelage.errors import StudioError
from tutelage.feedback.work import Kind, NewItem
from tutelage.questions import Question
from tutelage.records import Prompt


def from_questions(questions: Iterable[Question], kind: Kind, k: int | None = None) -> Iterator[NewItem]:
    """Items of questions: a comparison of the first two completions, a ranking of all, one item each to rate or edit.

    `k` is the most completions of a ranking; None for all.

    Raises StudioError 422 for work that is not about completions, or that needs two models.
    """
    for question in questions:
        match kind:
            case "comparison":
                yield NewItem(prompt=question.prompt, completions=question.completions[:2])
            case "ranking":
                yield NewItem(prompt=question.prompt, completions=question.completions[:k])
            case "rating" | "edit":
                yield from (NewItem(prompt=question.prompt, completions=(c,)) for c in question.completions)
            case "demonstration" | "chat":
                yield NewItem(prompt=question.prompt)
            case _:
                raise StudioError("A blind A/B needs the questions of two sampling runs", 422)


def from_prompts(prompts: Iterable[Prompt]) -> Iterator[NewItem]:
    """An item for each prompt: to write an answer to, or to begin a conversation with."""
    return (NewItem(prompt=prompt) for prompt in prompts)


def versus(first: Sequence[Question], second: Sequence[Question]) -> Iterator[NewItem]:
    """Two models on the prompts that both answered: the first completion of each, first model first.

    Which stands on which side is drawn when an item is handed out. Raises StudioError 422 where no prompt is in both.
    """
    others = {question.prompt.id: question for question in second}
    both = [question for question in first if question.prompt.id in others]
    if not both:
        raise StudioError("The two sampling runs have no prompt in common: sample both on the same prompts", 422)
    for question in both:
        pair = (question.completions[0], others[question.prompt.id].completions[0])
        yield NewItem(prompt=question.prompt, completions=pair)
