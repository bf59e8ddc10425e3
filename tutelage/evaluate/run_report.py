"""The report of a single training run, from what its directory holds: metrics, samples, numbers, settings, parents."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.errors import RunError
from tutelage.evaluate.figures import Chart, Line
from tutelage.evaluate.report import Ancestor, Answer, Headline, Report, Sample, duration, number, write_report
from tutelage.evaluate.statistics import Mean, Rate
from tutelage.history import RunInfo, info, lineage, settings_of
from tutelage.runs import Run, read_lines
from tutelage.settings import flat

STAGES = {
    "sft": "Supervised fine-tuning",
    "reward": "Reward model",
    "ppo": "Proximal policy optimisation",
    "dpo": "Direct preference optimisation",
    "group": "Policy gradient without a critic",
    "raft": "Rejection sampling",
}
SAMPLES = 12
PICTURED: Mapping[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "sft": (("Loss", "nats per token", ("sft/loss", "sft/evaluation_loss")),),
    "reward": (
        ("Loss", "nats per prompt", ("reward/loss",)),
        ("Accuracy", "share of pairs", ("reward/accuracy", "reward/evaluation_accuracy")),
    ),
    "ppo": (
        ("Reward", "standard deviations", ("ppo/score", "ppo/evaluation_score")),
        ("Distance from the reference", "KL, nats per text", ("ppo/kl", "ppo/evaluation_kl")),
        ("Reward less the price of KL", "standard deviations", ("ppo/objective",)),
    ),
    "group": (
        ("Reward", "as scored", ("group/score", "group/evaluation_score")),
        ("Distance from the reference", "KL, nats per text", ("group/kl", "group/evaluation_kl")),
        ("Spread of scores within a group", "as scored", ("group/deviation",)),
        ("Groups of equal scores", "share", ("group/equal",)),
    ),
    "raft": (
        ("Reward", "as scored", ("raft/score", "raft/best", "raft/pool_score")),
        ("Distance from the start", "KL, nats per text", ("raft/kl",)),
        ("Loss on held-out demonstrations", "nats per token", ("raft/probe_loss",)),
    ),
    "dpo": (
        ("Loss", "nats per prompt", ("dpo/loss", "dpo/evaluation_loss")),
        ("Accuracy", "share of decided pairs", ("dpo/accuracy", "dpo/evaluation_accuracy")),
        (
            "Implicit reward of the better, and of the worse",
            "the loss's own scale",
            ("dpo/reward_chosen", "dpo/reward_rejected"),
        ),
        ("Margin in implicit reward", "the loss's own scale", ("dpo/margin", "dpo/evaluation_margin")),
        ("Pairs whose margin runs away", "share of decided pairs", ("dpo/runaway",)),
        ("Better completions since the start", "nats per token", ("dpo/chosen_shift",)),
        (
            "Log-probability of the better, and of the worse",
            "nats per completion",
            ("dpo/logprob_chosen", "dpo/logprob_rejected"),
        ),
    ),
}


def report_for_run(path: Path) -> Report:
    """The report of a run directory; what the run did not log is left out.

    Raises:
        RunError: the folder is not a run, or one of its files cannot be read.
    """
    run = info(path)
    metrics = Run.open(path).metrics()
    numbers = _evaluation(path)
    return Report(
        title=f"{STAGES.get(run.kind, run.kind)}: {run.id}",
        summary=_summary(run, metrics),
        annotators=_annotators(run),
        headlines=_headlines(run, metrics, numbers),
        charts=charts(run.kind, metrics),
        samples=_samples(path),
        numbers=numbers,
        configuration=settings_of(path),
        lineage=tuple(
            Ancestor(depth, node.id, _descent(node.info)) for depth, node in lineage(path.parent, run.id).walk()
        ),
        facts=_facts(path, run),
    )


def write_run_report(path: Path) -> Path:
    """Write `report.html` into the run directory and return its path."""
    return write_report(report_for_run(path), path / "report.html")


def charts(kind: str, metrics: Sequence[Mapping[str, float]]) -> tuple[Chart, ...]:
    """Charts of a run's metrics: first those that matter for its kind, series together, then every other alone."""
    drawn: list[Chart] = []
    used = {"step"}
    for title, unit, names in PICTURED.get(kind, ()):
        lines = tuple(line for name in names if (line := _line(metrics, name)) is not None)
        used.update(names)
        if lines:
            drawn.append(Chart(title=title, x_label="step", y_label=unit, lines=lines))
    for name in dict.fromkeys(name for row in metrics for name in row):
        line = None if name in used else _line(metrics, name)
        if line is not None:
            drawn.append(Chart(title=name, x_label="step", y_label=line.label, lines=(line,)))
    return tuple(drawn)


def _line(metrics: Sequence[Mapping[str, float]], name: str) -> Line | None:
    rows = [row for row in metrics if name in row]
    if not rows:
        return None
    label = name.rsplit("/", 1)[-1].replace("_", " ")
    return Line(
        label, tuple(float(r["step"]) for r in rows), tuple(float(r[name]) for r in rows), points=len(rows) < 12
    )


def _summary(run: RunInfo, metrics: Sequence[Mapping[str, float]]) -> str:
    steps = f"{int(metrics[-1]['step']):,} steps" if metrics else "No steps yet"
    return f"{steps} in {duration(run.seconds)}; status: {run.status}."


def _annotators(run: RunInfo) -> str | None:
    """A statement about who judged, where the run recorded its annotators (as records or as a plain sentence)."""
    found = run.data.get("annotators")
    if not found:
        return None
    if isinstance(found, str):
        return found
    rows = list(found.values()) if isinstance(found, dict) else list(found)
    kinds = [str(row["kind"]) for row in rows if isinstance(row, dict) and "kind" in row]
    if kinds and all(kind == "simulated" for kind in kinds):
        return f"All {len(kinds)} annotators were simulated: no person judged anything that this run learned from."
    if "simulated" in kinds:
        return f"{kinds.count('simulated')} of the {len(kinds)} annotators were simulated."
    return None


def _headlines(
    run: RunInfo, metrics: Sequence[Mapping[str, float]], numbers: Mapping[str, object]
) -> tuple[Headline, ...]:
    """Where the pictured series end, each with where it began, and how long it took."""
    cards = []
    for title, unit, names in PICTURED.get(run.kind, ()):
        shown = next((n for n in names if "/evaluation_" in n and any(n in row for row in metrics)), names[0])
        line = _line(metrics, shown)
        if line is not None:
            what = title if shown == names[0] else f"{title}, held out"
            cards.append(Headline(what, f"{line.y[-1]:.3g}", f"{unit}; {line.y[0]:.3g} at step {line.x[0]:.0f}"))
    cards += [Headline(name, f"{100 * v.rate:.1f} %", str(v)) for name, v in numbers.items() if isinstance(v, Rate)][:2]
    return (*cards, Headline("Time", duration(run.seconds), run.status))


def _evaluation(path: Path) -> dict[str, object]:
    """The numbers of eval.json by dotted key; those with an interval and n come back as rates and means."""
    if not (path / "eval.json").exists():
        return {}
    try:
        tree = json.loads((path / "eval.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path / 'eval.json'}: {error}") from error
    return dict(flat(_measured(tree)))


def _measured(tree: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        match value:
            case {"rate": rate, "low": low, "high": high, "n": n}:
                found[key] = Rate(rate, low, high, n)
            case {"mean": mean, "low": low, "high": high, "n": n}:
                found[key] = Mean(mean, low, high, n)
            case dict():
                found[key] = _measured(value)
            case _:
                found[key] = value
    return found


def _samples(path: Path) -> tuple[Sample, ...]:
    """The texts of the last step that left any, answers of one prompt together."""
    rows = read_lines(path / "samples.jsonl")
    last = [row for row in rows if row["step"] == rows[-1]["step"] and "prompt" in row and "text" in row]
    together: dict[str, list[Answer]] = {}
    for row in last:
        scores = {k: float(v) for k, v in row.items() if isinstance(v, int | float) and k not in ("step", "prompt")}
        name = str(row.get("system", f"step {row['step']}"))
        together.setdefault(str(row["prompt"]), []).append(Answer(name, str(row["text"]), scores))
    return tuple(Sample(prompt, tuple(answers)) for prompt, answers in list(together.items())[:SAMPLES])


def _descent(run: RunInfo | None) -> str:
    return "no longer there" if run is None else f"{run.kind}, {duration(run.seconds)}, {run.status}"


def _facts(path: Path, run: RunInfo) -> dict[str, str]:
    versions = Run.open(path).facts.get("versions", {})
    facts = {
        "Command": run.command,
        "Started": f"{run.started[:19].replace('T', ' ')} UTC",
        "Versions": ", ".join(f"{name} {v}" for name, v in versions.items() if v),
    }
    facts |= {f"Data: {name}": number(value) for name, value in flat(run.data)}
    return {name: value for name, value in facts.items() if value}
