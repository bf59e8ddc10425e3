"""Every command, in the order of the story. What each does is one short function in `tutelage/commands`."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from difflib import get_close_matches

from cyclopts import App, CycloptsError, Group

from tutelage import __version__
from tutelage.allocator import start_again
from tutelage.errors import ConfigError, Interrupted, TutelageError

FEEDBACK = Group("Feedback", sort_key=1)
TRAINING = Group("Training", sort_key=2)
LOOKING = Group("Looking", sort_key=3)
WHOLE = Group("The whole loop", sort_key=4)
COMMANDS = (
    ("init", "feedback:init", FEEDBACK, "Make a project folder: settings, an empty store, runs/."),
    ("import", "feedback:import_", FEEDBACK, "Add files of prompts, demonstrations, rankings or ratings to the store."),
    ("export", "feedback:export", FEEDBACK, "Write what the store holds to a file."),
    ("sample", "sample:sample", FEEDBACK, "Sample completions of the store's prompts, for people to rank."),
    ("label", "feedback:label", FEEDBACK, "Rank sampled completions at this terminal."),
    ("studio", "studio:studio", FEEDBACK, "Start the studio: pages where people write, rank, chat and judge."),
    ("prioritise", "quality:prioritise", FEEDBACK, "Order what is left of a batch by how much an answer would teach."),
    ("compare-arms", "quality:compare_arms", FEEDBACK, "Whether active selection paid: both arms' reward models."),
    ("backup", "backup:backup", FEEDBACK, "Write the whole store to a file: labels, work, people."),
    ("restore", "backup:restore", FEEDBACK, "Bring the store to what a backup holds."),
    ("quality", "quality:quality", FEEDBACK, "How good the labels are: agreement, ability, leanings, pace, drift."),
    ("judge", "judge:judge", FEEDBACK, "Models as annotators: compare, validate."),
    ("constitution", "constitution:constitution", FEEDBACK, "Constitutional AI: show, revise, compare, report."),
    ("propositions", "propositions:propositions", FEEDBACK, "Measure the grader of rule-based rewards; fit weights."),
    ("sft", "train:sft", TRAINING, "Fine-tune the model on the demonstrations in the store."),
    ("reward", "train:reward", TRAINING, "Train a reward model on the rankings in the store."),
    ("ppo", "train:ppo", TRAINING, "Train the model against a reward model, with a KL penalty."),
    ("dpo", "roads:dpo", TRAINING, "Train the model on rankings directly, without a reward model."),
    (
        "group",
        "roads_rl:group",
        TRAINING,
        "Train the model against a reward without a critic: RLOO, GRPO or REINFORCE.",
    ),
    ("raft", "roads_rl:raft", TRAINING, "Fine-tune the model on the best of its own samples, in rounds."),
    ("best-of-n", "roads_rl:best_of_n", LOOKING, "Draw the best-of-n curve of a model: score against n and KL."),
    ("evaluate", "train:evaluate", LOOKING, "Measure a run on what it was never trained on."),
    ("report", "look:report", LOOKING, "Write a run's report: one HTML file."),
    ("runs", "look:runs", LOOKING, "What was run: list, show, compare, lineage."),
    ("models", "look:models", LOOKING, "Pretrained models: list, get."),
    ("bench", "bench:bench", LOOKING, "Measure speed and memory beside TRL and transformers, in turns."),
    ("demo", "demo:demo", WHOLE, "From a pretrained model to a better one, on film reviews, in minutes."),
    ("compare-roads", "compare_roads:compare_roads", WHOLE, "All roads from the same labels: gold, KL, time, memory."),
)

app = App(
    name="tutelage",
    help="Reinforcement learning from human feedback, whole: rankings, reward model, PPO, honest evaluation.",
    version=__version__,
)
for order, (name, place, group, summary) in enumerate(COMMANDS):
    app.command(f"tutelage.commands.{place}", name=name, group=group, help=summary, sort_key=order)


def prepared(tokens: Sequence[str]) -> list[str]:
    """A bare `--resume` means the newest run; dashes in a setting's flag (`--sft.batch-size`) mean underscores."""
    made: list[str] = []
    for token, following in zip(tokens, [*tokens[1:], "--"], strict=True):
        name, equals, value = token.partition("=")
        made.append(
            f"--{name[2:].replace('-', '_')}{equals}{value}" if name.startswith("--") and "." in name else token
        )
        if token == "--resume" and following.startswith("-"):
            made.append("newest")
    return made


def check_command(tokens: Sequence[str]) -> None:
    """Raises ConfigError for a command that there is not, before anything is loaded."""
    names = [name for name, *_ in COMMANDS]
    if tokens and not tokens[0].startswith("-") and tokens[0] not in names:
        near = get_close_matches(tokens[0], names, n=1)
        raise ConfigError(f"there is no command '{tokens[0]}'; {f'did you mean {near[0]!r}' if near else 'see --help'}")


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Within it, a warning is one line on standard error, without the place in our code."""
    before = warnings.showwarning
    warnings.showwarning = lambda message, *_args, **_kwargs: print(f"Warning: {message}", file=sys.stderr)
    try:
        yield
    finally:
        warnings.showwarning = before


@plain_warnings()
def run(tokens: Sequence[str]) -> int:
    """Run one command; returns the exit status: 0, 2 for a user's mistake, 130 after an interrupt."""
    try:
        check_command(tokens)
        command, bound, _ = app.parse_args(prepared(tokens), print_error=False, exit_on_error=False, verbose=False)
        as_json = bool(bound.arguments.get("json"))
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            answer = command(*bound.args, **bound.kwargs)
        if answer is not None:  # None is what --help leaves
            answer.print(as_json=as_json)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 130
    except (TutelageError, CycloptsError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; what was saved is kept.", file=sys.stderr)
        return 130
    return 0


def works_long(tokens: Sequence[str]) -> bool:
    """Whether this is a command that trains or samples, and not the question how it is used."""
    group = next((group for name, _, group, _ in COMMANDS if tokens and name == tokens[0]), None)
    return (group in (TRAINING, WHOLE) or tokens[:1] == ["sample"]) and not {"--help", "-h"} & set(tokens)


def main() -> None:
    """The `tutelage` command."""
    if works_long(sys.argv[1:]):
        start_again()
    sys.exit(run(sys.argv[1:]))
