"""Rule-based rewards: how good the grader of propositions is, and what propositions are worth."""

from pathlib import Path
from typing import Any

from tutelage.commands.flags import Config, Folder, Json, with_settings
from tutelage.commands.train import CORE
from tutelage.project import Project
from tutelage.stage import Settings
from tutelage.terminal import Answer, number, plain, table


@with_settings(Settings, *CORE, "propositions", "judge")
def propositions(
    *,
    test: Path | None = None,
    scorer: str | None = None,
    project: Folder = Path(),
    config: Config = None,
    json: Json = False,
    settings: dict[str, Any],
) -> Answer:
    """Measure the grader of propositions, and fit what each is worth in the reward.

    Parameters
    ----------
    test
        Labelled answers that are only measured on; without it, the labelled answers themselves, by folds.
    scorer
        The reward run whose scores the weights are added to; without it, the newest finished one, or none.
    project
        The project folder.
    config
        Settings file; without it, the project's tutelage.yaml.
    json
        End standard output with one line of JSON; everything else goes to standard error.
    """
    found = Project.open(project, config).propositions(settings, test=test, scorer=scorer)
    rows: list[tuple[Any, ...]] = []
    if found.figures is not None:
        for one in found.figures.propositions:
            words = None if one.bag_of_words is None else number(one.bag_of_words)
            rows.append((one.id, one.true, one.auc, words, one.accuracy, number(one.majority)))
        whole = found.figures
        rows.append(("mean", "", whole.auc, number(whole.bag_of_words), number(whole.accuracy), number(whole.majority)))
    weighing = found.weighing
    if weighing is not None:
        rows += [(f"weight: {w.behaviour}, {w.proposition}", "", number(w.weight)) for w in weighing.weights]
        rows.append(("pairs in order", weighing.pairs, number(weighing.accuracy), number(weighing.accuracy_without)))
        rows.append(("hinge loss", weighing.pairs, number(weighing.hinge), number(weighing.hinge_without)))
    title = f"{found.run.id}: measured on {found.held_out}\nNext: tutelage ppo --ppo.reward propositions"
    columns = ["proposition", "true", "area under the ROC curve", "bag of words", "accuracy", "majority"]
    figures = {"figures": found.figures, "measured_on": found.held_out, "weighing": weighing}
    return Answer(table(title, columns, rows), {"run": found.run.id, "path": str(found.run.path), **plain(figures)})
