"""The report: everything in one file, everything escaped, every figure with words for it."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tutelage.config import Section
from tutelage.errors import DataError, RunError
from tutelage.evaluate.accuracy import TextPair, judge_reward
from tutelage.evaluate.arena import System, compare, score_judge
from tutelage.evaluate.calibration import calibrate
from tutelage.evaluate.figures import Chart, Line, draw, draw_lengths, draw_reliability
from tutelage.evaluate.health import health
from tutelage.evaluate.report import (
    Ancestor,
    Answer,
    Headline,
    Report,
    Sample,
    Step,
    duration,
    number,
    percent,
    render,
    write_report,
)
from tutelage.evaluate.run_report import charts, report_for_run, write_run_report
from tutelage.evaluate.statistics import Mean, Rate, bootstrap_mean, wilson
from tutelage.runs import Run
from tutelage.terminal import plain

HOSTILE = "</p><script>alert(1)</script><img src=x onerror=alert(1)>\"' {{ 7*7 }} \x00\x1b[2J\u202etxet\ud800"
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """What a browser would see: elements, attributes, and whether every element is closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.words, self.ids = [], [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def full():
    prompts = [f"prompt {i}" for i in range(20)]
    a = System("PPO", tuple("good " * (i % 4 + 2) + "film" for i in range(20)))
    b = System("SFT", tuple("dull film" for _ in range(20)))
    judge = score_judge(lambda texts: np.array([t.count("good") for t in texts]))
    pairs = [TextPair(f"p{i}", "good film" + " so" * (i % 3), "dull film so") for i in range(60)]
    return Report(
        title="A report",
        summary="What was asked.",
        annotators="The annotators were simulated.",
        headlines=(Headline("PPO wins", "90 %", "n = 20", "good"),),
        matches=compare(prompts, a, b, {"unseen": judge}),
        health=(health(a, finishes=["stop"] * 20, perplexity=21.5), health(b)),
        steps=(Step("Sample", "4 a prompt", 75.0), Step("PPO", "40 steps", 150.0)),
        charts=(Chart("Reward", "step", "std", (Line("r", (1, 2, 3), (0.0, 0.5, float("nan"))),), "A caption."),),
        reward=judge_reward(pairs, np.linspace(-1, 3, 60), training=pairs[:10], ceiling=0.81, agreement=0.7),
        lengths={"PPO": [3, 4, 5], "SFT": [2, 2, 2]},
        samples=(Sample("Once", (Answer("PPO", "a time", {"reward": 1.25}), Answer("SFT", "more"))),),
        numbers={"perplexity": Mean(1.2, 1.1, 1.3, 50)},
        configuration={"ppo": {"steps": 40}},
        lineage=(Ancestor(0, "ppo-1", "PPO"), Ancestor(1, "reward-1", "reward model")),
        facts={"Command": "tutelage demo"},
    )


@pytest.fixture(scope="module")
def page():
    return Page(render(full()))


def test_nothing_is_loaded_from_elsewhere_and_nothing_runs(page):
    assert not page.named("script")
    assert not page.named("link")
    assert page.named("img")
    for attrs in page.named("img"):
        assert attrs["src"].startswith("data:image/svg+xml;base64,")
    assert all(a["href"].startswith("#") for a in page.named("a"))
    assert not re.search(r"url\(|@import|https?://", render(replace(full(), charts=())))
    policy = next(a["content"] for a in page.named("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_the_page_is_whole_and_accessible(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {a["href"][1:] for a in page.named("a")} <= set(page.ids)
    assert page.named("html") == [{"lang": "en"}]
    assert any(a.get("name") == "viewport" for a in page.named("meta"))
    assert all(len(a["alt"]) > 30 for a in page.named("img"))
    assert len(page.named("h1")) == 1


def test_every_number_is_there_with_interval_and_n(page):
    for found in (
        "A report", "The annotators were simulated.", "90 %", "PPO against SFT", "unseen", "100.0\u202f%",
        "83.9\u202f% to 100.0\u202f%", "3 min 45 s in all", "2 min 30 s", "Coin flip", "Bag of words",
        "Ceiling under this noise 81.0\u202f%", "Two annotators agree 70.0\u202f%", "21.5", "reward 1.25", "a time",
        "1.200 [1.100, 1.300], n = 50", "ppo: steps: 40", "from reward-1", "tutelage demo", "A caption.",
    ):  # fmt: skip
        assert " ".join(found.split()) in page.text, found
    assert wilson(20, 20).low == pytest.approx(0.839, abs=5e-4)


def test_what_a_model_wrote_stays_text():
    hostile = Report(
        title=HOSTILE,
        summary=HOSTILE,
        annotators=HOSTILE,
        headlines=(Headline(HOSTILE, HOSTILE, HOSTILE),),
        steps=(Step(HOSTILE, HOSTILE, 1.0),),
        charts=(
            Chart(HOSTILE, "step", "y", (Line("$\\frac{$", (0, 1), (0, 1)), Line("_x<", (0, 1), (1, 0))), HOSTILE),
        ),
        samples=(Sample(HOSTILE, (Answer(HOSTILE, HOSTILE, {HOSTILE: 1.0}),)),),
        numbers={HOSTILE: HOSTILE},
        configuration={HOSTILE.replace("\ud800", ""): [HOSTILE.replace("\ud800", "")]},
        lineage=(Ancestor(0, HOSTILE, HOSTILE),),
        facts={HOSTILE: HOSTILE},
    )
    html = render(hostile)
    html.encode("utf-8")  # no lone surrogates are left
    page = Page(html)
    assert page.open == []
    assert not page.named("script")
    assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
    assert all(a["src"].startswith("data:") for a in page.named("img"))
    assert "{{ 7*7 }}" in page.text
    assert "49" not in page.text
    assert not set("\x00\x1b\u202e") & set(html)


def test_an_empty_report_has_no_empty_sections():
    page = Page(render(Report(title="Nothing yet", summary="No steps.")))
    assert page.open == []
    assert not page.named("section") and not page.named("img") and not page.named("a")  # noqa: PT018


def test_writing_is_all_or_nothing(tmp_path):
    path = write_report(full(), tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write the report"):
        write_report(full(), tmp_path / "file" / "report.html")


def test_the_same_report_is_the_same_file():
    assert render(full()) == render(full())


def svg(figure):
    return ElementTree.fromstring(base64.b64decode(figure.source.partition(",")[2]))


def test_a_chart_says_what_it_shows_and_leaves_out_what_is_not_finite():
    chart = Chart("KL", "step", "nats", (Line("kl", (1, 2, 3, 4), (0.0, 4.0, float("inf"), 2.0)),))
    figure = draw(chart)
    assert figure.alt == ("Line chart of nats over step. kl: 0 at 1, 2 at 4, lowest 0, highest 4, 1 points not finite.")
    texts = {"".join(t.itertext()).strip() for t in svg(figure).iter("{http://www.w3.org/2000/svg}text")}
    assert {"step", "nats"} <= texts
    nothing = draw(Chart("x", "step", "y", (Line("none", (1.0,), (float("nan"),)),)))
    assert "no finite points" in nothing.alt


def test_a_series_that_goes_back_and_forth_is_drawn_as_dots():
    def strokes(x):
        figure = svg(draw(Chart("Gold", "KL", "score", (Line("gold", x, (0.0, 1.0, 2.0)),))))
        return [
            e.get("style")
            for e in figure.iter("{http://www.w3.org/2000/svg}path")
            if "#2457d6" in (e.get("style") or "")
        ]

    assert any("stroke-width: 2" in style for style in strokes((1, 2, 3)))
    assert not any("stroke-width: 2" in style for style in strokes((1, 3, 2)))


def test_chart_lines_must_fit():
    with pytest.raises(DataError, match="no lines"):
        draw(Chart("x", "step", "y", ()))
    with pytest.raises(DataError, match="equally long"):
        draw(Chart("x", "step", "y", (Line("a", (1, 2), (1,)),)))
    with pytest.raises(DataError, match="equally long"):
        draw(Chart("x", "step", "y", (Line("a", (1, 2), (1, 2), low=(0, 0)),)))
    with pytest.raises(DataError, match="no lengths"):
        draw_lengths({"A": []})


def test_reliability_and_lengths_are_put_into_words():
    calibration = calibrate([2.0] * 8 + [-2.0] * 2)  # 88 % stated, 80 % observed
    assert "0.88 stated and 0.80 observed (10 pairs)" in draw_reliability(calibration).alt
    assert "PPO: median 4 words, SFT: median 2 words" in draw_lengths({"PPO": [3, 4, 5], "SFT": [2, 2, 2]}).alt
    svg(draw_reliability(calibration))


def test_numbers_as_people_read_them():
    assert [duration(s) for s in (0.44, 41.2, 59.7, 521, 7500)] == [
        "0.4 s",
        "41 s",
        "1 min 00 s",
        "8 min 41 s",
        "2 h 5 min",
    ]
    assert [number(x) for x in (True, None, 12345, 0.123456, 98765.4)] == ["yes", "–", "12,345", "0.1235", "98,765"]
    assert number(Rate(0.5, 0.25, 0.75, 1200)) == "50.0% [25.0%, 75.0%], n = 1,200"
    assert percent(0.7049, 0) == "70\u202f%"


# One run


class Settings(Section):
    steps: int = 3
    seed: int = 0


@pytest.fixture
def run_path(tmp_path: Path) -> Path:
    parent = Run.start(tmp_path, "reward", Settings())
    parent.finish()
    run = Run.start(tmp_path, "ppo", Settings(), parents=[parent.id], command="tutelage ppo --steps 3")
    run.record({"annotators": [{"id": "s1", "kind": "simulated", "name": "Ada"}]})
    for step in (1, 2, 3):
        run.log(step, {"ppo/score": 0.1 * step, "ppo/kl": 0.5 * step, "ppo/entropy": 2.0 - 0.1 * step})
        run.samples(step, [{"prompt": "The film", "text": f"<b>was {step}</b>", "score": 0.25 * step}])
    run.evaluate(
        {"win_rate": {"rate": 0.75, "low": 0.6, "high": 0.85, "n": 40, "judge": "unseen"}, "deep": {"kl": 1.5}}
    )
    run.finish()
    return run.path


def test_the_report_of_a_run(run_path):
    report = report_for_run(run_path)
    assert report.summary.startswith("3 steps in ")
    assert [c.title for c in report.charts] == ["Reward", "Distance from the reference", "ppo/entropy"]
    assert report.charts[0].lines[0].y == pytest.approx((0.1, 0.2, 0.3))
    assert report.numbers["win_rate"] == Rate(0.75, 0.6, 0.85, 40)
    assert report.numbers["deep.kl"] == 1.5
    assert report.samples == (Sample("The film", (Answer("step 3", "<b>was 3</b>", {"score": 0.75}),)),)
    assert [a.depth for a in report.lineage] == [0, 1]
    assert report.annotators is not None
    assert "simulated" in report.annotators
    page = Page(write_run_report(run_path).read_text(encoding="utf-8"))
    assert "<b>was 3</b>" in page.text
    assert "tutelage ppo --steps 3" in page.text
    assert "steps: 3 seed: 0" in page.text
    assert not page.named("script")


def test_a_run_that_has_only_begun(tmp_path):
    run = Run.start(tmp_path, "sft", Settings())
    run.finish("interrupted")
    report = report_for_run(run.path)
    assert report.summary.startswith("No steps yet")
    assert report.charts == report.samples == ()
    assert Page(render(report)).open == []
    (run.path / "eval.json").write_text("{")
    with pytest.raises(RunError, match=r"cannot read .*eval\.json"):
        report_for_run(run.path)
    with pytest.raises(RunError, match="is not a run"):
        report_for_run(tmp_path / "nothing")


def test_a_mean_of_one_case_comes_back_from_json_without_its_interval(tmp_path):
    run = Run.start(tmp_path, "judge", Settings())
    run.evaluate(plain({"position_bias": bootstrap_mean([0.25])}))
    run.finish()
    assert "0.250 [no interval], n = 1" in Page(render(report_for_run(run.path))).text


def test_training_and_held_out_series_share_a_chart():
    rows = [{"step": 1, "sft/loss": 3.0}, {"step": 2, "sft/loss": 2.5, "sft/evaluation_loss": 2.75, "rate": 1.0}]
    loss, rate = charts("sft", rows)
    assert [(line.label, line.x) for line in loss.lines] == [("loss", (1, 2)), ("evaluation loss", (2,))]
    assert rate.title == "rate"
