"""Made-up votes and comparisons for the tests of tutelage.quality."""

from tutelage.quality.votes import Votes
from tutelage.records import Annotator, Comparison, Completion, Prompt, Source


def comparison(prompt, texts, ranks, who="a", shown=None, models=None, round=None, seconds=None):
    """Whose texts are ranked so; by `who`."""
    models = models or ["file"] * len(texts)
    return Comparison(
        prompt=Prompt.text(prompt),
        completions=tuple(
            Completion(text=t, source=Source(model=m, round=round)) for t, m in zip(texts, models, strict=True)
        ),
        ranks=tuple(ranks),
        shown=tuple(range(len(texts))) if shown is None else shown,
        annotator=Annotator(id=who, kind="human", name=f"name of {who}"),
        seconds=seconds,
    )


def crowd(abilities, units, per_unit, rng, num_labels=2):
    """Votes of raters who are right this often, wrong answers even: (truth, votes)."""
    truth = rng.integers(0, num_labels, units)
    said = []
    for unit in range(units):
        for r in rng.choice(len(abilities), per_unit, replace=False):
            wrong = (truth[unit] + rng.integers(1, num_labels)) % num_labels
            said.append((unit, f"{r:02}", int(truth[unit] if rng.random() < abilities[r] else wrong)))
    return truth, Votes.of(said, labels=range(num_labels))
