"""KTO reads its rankings and ratings by row number: what it gives, that it stays, and that memory does not grow."""

import gc
import tracemalloc

import numpy as np
import pytest
from test_store import pair

import tutelage
import tutelage.feedback.store as store_module
import tutelage.model.batch as batch_module
from tutelage import roads
from tutelage.learn.kto import Judged, chained, one_by_one, opinions, rated, split
from tutelage.learn.preference import preference
from tutelage.model import causal
from tutelage.model.batch import Lazy, gather, pick
from tutelage.records import Annotator, Completion, Prompt, Rating, Source
from tutelage.stage import stage

BEN = Annotator(id="ben", kind="human", name="Ben")
TINY = causal.load("tiny")
FLAGS = {"dpo.loss.kind": "kto", "dpo.max_tokens": 64}


@pytest.fixture
def project(tmp_path):
    return tutelage.init(tmp_path / "p", model="tiny")


def labels(count, *, start=0):
    """A pair and a rating about each film; every fourth pair is a tie, every seventh rating the middle."""
    made = []
    for i in range(start, start + count):
        prompt = Prompt.text(f"Film {i} was")
        ranks = (1, 1) if i % 4 == 0 else (2, 1)
        made.append(pair(i).model_copy(update={"prompt": prompt, "ranks": ranks}))
        done = Completion(text=f" so {i}", source=Source(model="file"))
        made.append(Rating(id=f"r{i}", prompt=prompt, completion=done, score=1 + i % 7, annotator=BEN))
    return made


def filled(project, rows):
    with project.store() as store:
        store.add_all(rows)


def begun(project, **flags):
    """A run that has just begun, still open."""
    return stage(project.folder, "dpo", FLAGS | flags, resume=None).__enter__()


def items(s, store, side="train"):
    return roads._items(s, store, TINY, side)


def as_a_list(rows, side, seed=0):
    """The same from all records in memory: rankings first, then ratings, then each with its stranger."""
    tokenizer, mine = TINY.tokenizer, [r for r in rows if r.prompt.split == side]
    judged = [one for r in mine if not isinstance(r, Rating) for one in split(preference(r, tokenizer, 64))]
    judged += [one for r in mine if isinstance(r, Rating) for one in rated(r, tokenizer, 64)]
    return list(opinions(judged, seed, 64))


def test_it_is_what_all_records_in_memory_give(project):
    rows = labels(40)
    filled(project, rows)
    s = begun(project)
    with project.store() as store:
        found, held_out = items(s, store), items(s, store, "evaluation")
        assert isinstance(found, Lazy)
        assert list(found) == as_a_list(rows, "train")
        assert gather(found, [7, 3, 7, len(found) - 1]) == [as_a_list(rows, "train")[i] for i in (7, 3, 7, -1)]
        assert held_out == as_a_list(rows, "evaluation")
        for source, kind in (("ratings", Rating), ("comparisons", type(rows[0]))):
            chosen = [r for r in rows if isinstance(r, kind)]
            assert list(items(begun(project, **{"dpo.loss.source": source}), store)) == as_a_list(chosen, "train")
    data = s.run.facts["data"]
    train = [r for r in rows if r.prompt.split == "train"]
    assert data["comparisons"] == data["ratings"] == len(train) / 2
    assert {who["id"]: who["labels"] for who in data["annotators"]} == {"ann": len(train) / 2, "ben": len(train) / 2}


def test_a_resumed_run_reads_what_it_began_with_whatever_happened_since(project):
    rows = labels(30)
    filled(project, rows)
    s = begun(project)
    with project.store() as store:
        first = list(items(s, store))
        s.run.finish("interrupted")
        train = [r for r in rows if r.prompt.split == "train"]
        store.retract(train[2].id)
        store.retract(train[3].id)
        store.add_all(labels(10, start=50))
        with stage(project.folder, "dpo", {}, resume="newest") as again:
            assert list(items(again, store)) == first
        assert list(items(begun(project), store)) != first


def test_memory_does_not_grow_with_the_store(project, monkeypatch):
    """Some bytes a label are kept, where an opinion of short texts takes over a thousand."""
    monkeypatch.setattr(store_module, "PAGE", 20)
    monkeypatch.setattr(batch_module, "PAGE", 20)

    def peak():
        s = begun(project)
        with project.store() as store:
            gc.collect()
            tracemalloc.start()
            found = items(s, store)
            for step in range(10):
                gather(found, pick(len(found), 8, step, 0))
            size = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        s.run.finish("interrupted")
        return size

    filled(project, labels(100))  # more than what is kept of prompts that were just seen
    few = min(peak() for _ in range(2))
    filled(project, labels(300, start=100))
    assert (min(peak() for _ in range(2)) - few) / (2 * 300 * 0.8) < 500


def test_groups_one_by_one_and_parts_in_a_chain():
    rows = [[Judged((1, 10 * g + i), 1, 1.0) for i in range(n)] for g, n in enumerate((2, 0, 3, 1, 0))]
    flat = one_by_one(np.array([len(r) for r in rows]), rows)
    assert list(flat) == [one for row in rows for one in row]
    assert gather(flat, [5, 0, 2]) == [rows[3][0], rows[0][0], rows[2][0]]
    assert list(chained([flat, rows[2], []])) == [*flat, *rows[2]]
    assert gather(chained([rows[0], flat]), [7, 1, 2]) == [flat[5], rows[0][1], flat[0]]
    assert len(chained([[], []])) == 0
