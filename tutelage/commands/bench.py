"""Speed and memory beside other libraries."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter
from rich.console import Group

from tutelage.bench.figure import check_figure, draw_growth, draw_ratios
from tutelage.bench.growth import Curve, curves
from tutelage.bench.measure import OURS, RowFigures, check_history, facts, help_seconds, measure, record
from tutelage.bench.sides import SCRIPTS, our_command, peer_command
from tutelage.bench.work import ROWS, BenchConfig, RowName, chosen_rows, spread, task
from tutelage.commands.flags import Json, with_settings
from tutelage.errors import ConfigError
from tutelage.model.causal import best_compute, best_device, load, save
from tutelage.progress import console, progress
from tutelage.settings import FLAG, Layer, nested, resolve
from tutelage.terminal import Answer, plain, table

TINY = BenchConfig(
    model="tiny", steps=2, rounds=2, batch=2, rows=4, prompt=6, shortest=3, longest=9, new_tokens=8, threads=1
)


@with_settings(BenchConfig)
def bench(
    *rows: Literal[RowName, "growth"],
    ways: str | None = None,
    peers: bool = True,
    record_to: Annotated[Path | None, Parameter(name="--record")] = None,
    figure: Path | None = None,
    tiny: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """How fast training and sampling are beside TRL and transformers, in turns on this machine; `growth` for curves.

    The others run in environments of their own, which are made in the cache the first time (1 GB each).

    Parameters
    ----------
    rows
        What to measure; without any, all of it but `growth`: how speed and memory grow with the work.
    ways
        Only these of the peer's ways, with commas: padded, padding_free, compiled, dynamic, static.
    peers
        Measure the others too.
    record_to
        Append the figures to this file, a line of JSON for each row as soon as it is measured.
    figure
        Draw the ratios, or the curves of `growth`, into this file.
    tiny
        A check in seconds: a model that knows nothing, few tokens, and a peer that only waits.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    if figure is not None and not peers and "growth" not in rows:
        raise ConfigError("--figure draws ratios to a peer, and --no-peers leaves them out")
    _check_files(figure, record_to)
    config = resolve(BenchConfig, [Layer(FLAG, nested(settings))], base=TINY if tiny else None)
    with tempfile.TemporaryDirectory() as place:
        if "growth" in rows:
            if len(rows) > 1:
                raise ConfigError("growth is measured alone: name the other rows in another command")
            grown = curves(config, Path(place), _products(), small=tiny)
            figures = facts(config) | {"growth": grown}
            shown = Group(*(_curve(one) for one in grown))
            _keep(record_to, figures)
        else:
            helped = {"help_seconds": help_seconds(1 if tiny else 5)}
            found = []
            for row in _compare(chosen_rows(rows), config, Path(place), _ways(ways), peers=peers, tiny=tiny):
                found.append(row)
                _keep(record_to, facts(config) | helped | {"rows": {row.row: row.figures}})
            figures = facts(config) | helped | {"rows": {row.row: row.figures for row in found}}
            shown = Group(*_tables(found, helped["help_seconds"]))
    if figure is not None and "growth" in rows:
        draw_growth(grown, figure)
    elif figure is not None and any(row.ratio for row in found):
        draw_ratios(plain(figures)["rows"], figure)
    elif figure is not None:
        shown = Group(shown, f"\n{figure} is not drawn: no row was measured beside a peer")
    return Answer(shown, figures)


def _check_files(figure: Path | None, history: Path | None) -> None:
    """Raises ConfigError for one that could not be written: before anything is measured."""
    if figure is not None:
        check_figure(figure)
    if history is not None:
        check_history(history)


def _keep(path: Path | None, figures: Mapping[str, Any]) -> None:
    """Append to the history, where there is to be one."""
    if path is not None:
        record(path, plain(figures))


def _ways(given: str | None) -> Sequence[str]:
    """The peer's ways that are asked for; none means all. Raises ConfigError for one that there is not."""
    chosen = [] if given is None else given.split(",")
    known = {way for row in ROWS.values() for way in row.ways}
    if odd := [way for way in chosen if way not in known]:
        raise ConfigError(f"--ways names {odd[0]!r}; there is {', '.join(sorted(known))}")
    return chosen


def _compare(
    rows: Sequence[RowName], config: BenchConfig, place: Path, ways: Sequence[str], *, peers: bool, tiny: bool
) -> Iterator[RowFigures]:
    """Every row, as soon as it is measured. The model is read once here and saved where both sides can load it."""
    model = load(config.model)
    if config.spread:
        spread(model.decoder, config.seed)
    source = place / "model"
    save(model, source)
    for row in rows:
        work = task(row, config, model=str(source), dtype=_products(), vocabulary=model.decoder.config.vocab_size)
        folder = place / row
        folder.mkdir()
        others = _peers(row, ways, tiny=tiny) if peers else {}
        with progress(f"Bench {row}", config.rounds * max(1, len(others))) as report:
            found = measure(work, config, our_command(), others, folder, report)
        if found.ratio is not None:
            console.print(
                f"{ROWS[row].what}: {found.ratio} times as fast as {found.best}", markup=False, highlight=False
            )
        yield found


def _products() -> str:
    """The number format of both sides' matrix products: the machine's best."""
    return str(best_compute(best_device())).removeprefix("torch.")


def _peers(row: RowName, ways: Sequence[str], *, tiny: bool) -> Mapping[str, Sequence[str]]:
    """The command of each of the peer's ways."""
    if tiny:
        return {"fake": [*our_command()[:1], str(SCRIPTS / "fake_side.py")]}
    command = peer_command(ROWS[row].peer)
    return {way: command for way in ROWS[row].ways if way in ways or not ways}


def _tables(found: Sequence[RowFigures], help_took: float) -> Iterator[Any]:
    """Ratios; then each side; then what failed."""
    yield table(
        f"Times as fast as the peer's best way, median over steps and range of rounds; torch {torch.__version__}",
        ["work", "ratio", "by CPU seconds", "target", "peer's best", "memory, peer / ours", "loss, ours", "loss, peer"],
        [
            (
                ROWS[r.row].what,
                r.ratio or "not measured",
                r.cpu_ratio,
                f"≥ {ROWS[r.row].target:g}",
                r.best,
                None if r.memory_ratio is None else f"{r.memory_ratio:.2f}",
                *(None if loss is None else f"{loss:.4f}" for loss in (r.loss(OURS), r.loss(r.best or ""))),
            )
            for r in found
        ],
    )
    yield table(
        "\nEach side",
        ["side", "tokens/s", "first step, s", "ready after, s", "peak memory, MB"],
        [
            (
                f"{ROWS[r.row].what}: {name}",
                f"{side.tokens_per_second:,.1f}",
                f"{side.first_seconds:.2f}",
                f"{side.load_seconds:.1f}",
                f"{side.peak_bytes / 1e6:,.0f}",
            )
            for r in found
            for name, side in r.sides.items()
        ],
    )
    yield f"\ntutelage --help: {help_took:.2f} s"
    for r in found:
        for way, why in r.failed.items():
            yield f"{ROWS[r.row].what}, {way}, not measured: {why}"


def _curve(curve: Curve) -> Any:
    """One curve of growth."""
    rows = [(p.at, f"{p.tokens_per_second:,.1f}", f"{p.peak_bytes / 1e6:,.0f}") for p in curve.points]
    return table(f"\n{curve.title}", [curve.along, "tokens/s", "peak memory, MB"], rows)
