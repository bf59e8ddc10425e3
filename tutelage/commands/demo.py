"""The whole loop on film reviews."""

import getpass
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Group

from tutelage.commands.flags import Json, with_settings
from tutelage.errors import Interrupted
from tutelage.feedback.store import Store
from tutelage.folder import make_folder
from tutelage.loop.demo import demo as run_demo
from tutelage.loop.demo_config import DemoConfig
from tutelage.loop.demo_rankings import Annotate
from tutelage.loop.demo_report import Outcome
from tutelage.records import Comparison, Completion, Prompt
from tutelage.settings import FLAG, Layer, nested, resolve
from tutelage.terminal import Answer, Quit, Sitting, TerminalAnnotator, human, number, table


@with_settings(DemoConfig)
def demo(
    *,
    folder: Path = Path("tutelage-demo"),
    mini: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """From a pretrained model to a better one: SFT, rankings, reward model, PPO, blind evaluation, report.

    The annotators are simulated; with `--annotator me` you rank in their place. Interrupted, the same command goes on.

    Parameters
    ----------
    folder
        Where everything is kept.
    mini
        The same path in a minute, on a tiny model that knows nothing and without a download: a check, not a result.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    layers = [Layer(FLAG, nested(settings))]
    config = resolve(DemoConfig, layers, base=DemoConfig.miniature() if mini else None)
    make_folder(folder)
    if config.annotator == "me":
        with _person(folder / "tutelage.db") as annotate:
            outcome = run_demo(config, folder, annotate)
    else:
        outcome = run_demo(config, folder)
    return Answer(_summary(outcome), outcome.as_json())


@contextmanager
def _person(database: Path) -> Iterator[Annotate]:
    """Whoever sits at the terminal, as the demo's annotator; quitting leaves everything to go on from."""
    with Store(database) as store:
        sitting = Sitting(TerminalAnnotator(human(getpass.getuser())), store.add, store.retract)

        def annotate(prompt: Prompt, completions: Sequence[Completion]) -> Comparison | None:
            try:
                return sitting.ask(prompt, completions)
            except Quit:
                raise Interrupted("stopped; your rankings are saved. The same command goes on from here.") from None

        yield annotate


def _summary(outcome: Outcome) -> Group:
    """Who wins against whom by which judge, how the texts are, and where the report is."""
    wins = [(f"{m.first} against {m.second}", m.judge, m.win_rate) for m in outcome.matches]
    texts = [
        (h.name, number(h.words.mean), number(h.distinct_2), "" if h.perplexity is None else number(h.perplexity))
        for h in outcome.health
    ]
    return Group(
        table("Blind comparison, both orders", ["who", "judge", "wins, 95 % interval"], wins),
        "",
        table("Texts", ["system", "words", "distinct-2", "perplexity under the base model"], texts),
        "",
        f"KL to the SFT policy {outcome.kl:.2f} nats a text · {outcome.seconds:.0f} seconds · annotators simulated "
        "unless you ranked",
        f"Report: {outcome.report}",
    )
