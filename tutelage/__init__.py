"""tutelage: reinforcement learning from human feedback, whole.

import tutelage
project = tutelage.open("films")
run = project.sft({"sft.steps": 100})
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tutelage.project import Project

__version__ = "0.1.0"


def open(path: Path | str = ".", config: Path | str | None = None) -> "Project":
    """The project in a folder, with the settings in its tutelage.yaml or in another file."""
    from tutelage.project import Project

    return Project.open(path, config)


def init(path: Path | str = ".", *, model: str = "smollm2-135m", store: str = "tutelage.db") -> "Project":
    """Make a new project folder: settings, an empty store, a folder for runs."""
    from tutelage.project import Project

    return Project.init(path, model=model, store=store)
