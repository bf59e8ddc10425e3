"""Constitutional AI at work: answers into revisions to imitate, pairs into soft labels, and how evasive texts are."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tutelage import history
from tutelage.errors import ConfigError, DataError, Interrupted
from tutelage.evaluate.arena import word_counts
from tutelage.evaluate.evasion import Evasion, evasion
from tutelage.evaluate.statistics import Mean, Rate, mean, wilson
from tutelage.folder import ProjectFolder
from tutelage.history import RunInfo
from tutelage.judge.asking import Judge
from tutelage.judge.constitution import Constitution, read_constitution
from tutelage.judge.memory import Spent
from tutelage.judge.principles import annotator_by_principles, judge_by_principles
from tutelage.judge.revision import Revised, completions, demonstrations, revise
from tutelage.judging import Labelling, judging, label, sampled
from tutelage.model.causal import fingerprint
from tutelage.progress import progress
from tutelage.questions import FILE, Question, read_questions, write_questions
from tutelage.records import Completion, Prompt, Source
from tutelage.runs import Run
from tutelage.stage import Settings, Stage, fitting
from tutelage.terminal import plain
from tutelage.wire import generate, model_of, newest_policy, prompt_tokens

TOGETHER = 32  # answers revised before their demonstrations are stored


@dataclass(frozen=True)
class RoundFigures:
    """What answers are like after so many rounds; n counts prompts."""

    round: int
    """0 for the answers as they were drawn."""
    responses: int
    words: Mean
    """A response, split at white space."""
    changed: Rate | None
    """Responses that this round made different; None for round 0."""
    evasion: Evasion


@dataclass(frozen=True)
class Revising:
    """What came of letting a critic revise."""

    run: Run
    answers: int
    revised: int
    """To the end, round by round."""
    demonstrations: int
    """Added to the store; those it held already are not counted."""
    not_revised: dict[str, int]
    """Answers that were not revised to the end, by kind of reason."""
    principles: dict[str, int]
    """How often each was drawn, over all rounds."""
    rounds: tuple[RoundFigures, ...]
    bill: tuple[Spent, ...]
    """What every judge of this project has cost so far, all runs together."""


def run_revise(
    folder: ProjectFolder, flags: Mapping[str, Any], *, model: str | None, prompts: int, critic: Judge | None = None
) -> Revising:
    """Draw answers to the store's training prompts, let the settings' judge revise them, and store the result.

    `critic` stands in for the judge and is asked as it is, without memory. Demonstrations are stored part by part, and
    the judge is asked nothing twice, so the same command goes on after an interruption.
    """
    named = folder.settings(Settings, flags)
    if critic is None and len(named.judge.panel) > 1:
        raise ConfigError(f"one critic revises an answer, judge.panel names {len(named.judge.panel)}")
    constitution = _constitution(named)
    chosen = history.find_run(folder.runs, model) if model else newest_policy(folder)
    given = [] if critic is None else [critic]
    with judging(folder, "constitution", flags, lambda: [chosen] if chosen else [], given) as (s, (judge,), memory):
        answers = _answers(s, chosen, prompts)
        done, added = _revise_all(s, answers, judge, constitution)
        whole = [one for one in done if not one.reason]
        asked = [(one.prompt, completions(one, judge, constitution, s.run.id)) for one in whole]
        write_questions(s.run.path, [Question(prompt=prompt, completions=made) for prompt, made in asked])
        drawn = Counter(revision.principle.id for one in done for revision in one.revisions)
        report = Revising(
            run=s.run,
            answers=len(answers),
            revised=len(whole),
            demonstrations=added,
            not_revised=dict(Counter(one.reason.partition(":")[0] for one in done if one.reason)),
            principles=dict(drawn.most_common()),
            rounds=tuple(_figures(asked)),
            bill=tuple(memory.bill()),
        )
        s.run.record({"critic": judge.name, "constitution": constitution.version, "principles": report.principles})
        s.run.record({"answers": len(answers), "demonstrations": added})
        s.run.evaluate(plain({key: value for key, value in vars(report).items() if key != "run"}))
    return report


def run_principles(
    folder: ProjectFolder,
    flags: Mapping[str, Any],
    *,
    source: str | None = None,
    file: Path | None = None,
    judges: Sequence[Judge] = (),
) -> Labelling:
    """Label the pairs of a sampling run (the newest, or `source`) or of a file as judges compare them by principles.

    `judges` stand in for the settings' panel, without memory. It goes on as `judging.run_compare` does.
    """
    constitution = _constitution(folder.settings(Settings, flags))
    with judging(folder, "judge", flags, sampled(folder, source, file), judges) as (s, panel, memory):
        config, seed, mass = s.settings.constitution, s.settings.seed, s.settings.judge.least_mass
        who = annotator_by_principles(panel, constitution, config, seed)
        s.run.record({"constitution": constitution.version})
        return label(
            s,
            memory,
            file,
            who,
            constitution.rubric,
            lambda asked, going: judge_by_principles(
                asked, panel, constitution, config, seed=seed, least_mass=mass, going=going
            ),
        )


def evasion_of(folder: ProjectFolder, name: str | None) -> tuple[RunInfo, tuple[RoundFigures, ...]]:
    """How evasive the texts of a revising or sampling run are, round by round; without a name, the newest revising."""
    found = history.find_run(folder.runs, name) if name else history.find_of_kind(folder.runs, "constitution", None)
    questions = read_questions(found.path / FILE)
    if not questions:
        raise DataError(f"{found.path / FILE} holds no texts: nothing was sampled or revised to the end")
    return found, tuple(_figures([(one.prompt, one.completions) for one in questions]))


def _constitution(settings: Settings) -> Constitution:
    return read_constitution(settings.constitution.file).of(settings.constitution.tags)


def _answers(s: Stage, chosen: RunInfo | None, most: int) -> list[Revised]:
    """An answer of the policy to each of the first training prompts; the same ones again on the same model and seed."""
    policy, params = model_of(s.folder, s.settings, chosen), s.settings.sampling
    with s.open_store() as store:
        asked = islice(store.prompts("train"), most)
        prompts = fitting(asked, lambda prompt: (prompt, prompt_tokens(policy, prompt, params.max_tokens))[0])
    if not prompts:
        raise DataError("the store has no training prompts: import some, e.g. `tutelage import prompts.jsonl`")
    groups = generate(policy, prompts, 1, params, seed=s.settings.seed)
    source = Source(
        model=policy.name,
        checkpoint=fingerprint(policy.decoder),
        run=s.run.id,
        round=0,
        seed=s.settings.seed,
        sampling=params.model_dump(),
    )
    return [
        Revised(prompt, Completion(text=policy.tokenizer.decode(one.tokens), finish=one.finish, source=source))
        for prompt, (one,) in zip(prompts, groups, strict=True)
    ]


def _revise_all(
    s: Stage, answers: Sequence[Revised], critic: Judge, constitution: Constitution
) -> tuple[list[Revised], int]:
    """Every answer revised, written down, and in the store; and how many demonstrations are new there.

    Raises Interrupted after Ctrl-C, once all is saved.
    """
    config, done, added = s.settings.constitution, list[Revised](), 0

    def going() -> bool:
        return not s.run.stop_requested

    with s.open_store() as store, s.run.interruptible(), progress("Revising", len(answers)) as report:
        for start in range(0, len(answers), TOGETHER):
            part = answers[start : start + TOGETHER]
            for one in revise(part, critic, constitution, config, seed=s.settings.seed, going=going):
                added += store.add(*demonstrations(one, critic, constitution, config))
                done.append(one)
                s.run.samples(len(done), [one.row()])
            report(len(done))
            if s.run.stop_requested:
                raise Interrupted("stopped")
    return done, added


def _figures(asked: Sequence[tuple[Prompt, Sequence[Completion]]]) -> list[RoundFigures]:
    """Round by round, over the texts of that round."""
    by_round: dict[int, list[tuple[str, str, str]]] = {}  # prompt, text, the text before
    for prompt, made in asked:
        for place, one in enumerate(made):
            before = made[max(place - 1, 0)].text
            by_round.setdefault(one.source.round or 0, []).append((prompt.messages[-1].content, one.text, before))
    figures = []
    for number, rows in sorted(by_round.items()):
        prompts, texts, earlier = zip(*rows, strict=True)
        changed = sum(text != old for text, old in zip(texts, earlier, strict=True))
        figures.append(
            RoundFigures(
                round=number,
                responses=len(texts),
                words=mean(word_counts(texts)),
                changed=wilson(changed, len(texts)) if number else None,
                evasion=evasion(prompts, texts),
            )
        )
    return figures
