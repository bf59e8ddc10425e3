"""What can go wrong, as a tree. Every message says what was found, where, and what to do.

TutelageError
├── ConfigError       a setting: unknown, of the wrong type, or at odds with another
├── DataError         a file or a record that cannot be read as what it should be
├── StoreError        the database of feedback
├── ModelError        a model folder, its weights or its tokenizer
├── RunError          a run directory
│   ├── CheckpointError   a checkpoint is missing, incomplete or of another run
│   └── Interrupted       the user asked to stop; everything is saved
├── JudgeError        an AI judge that cannot be asked, or has not judged where it must
├── TrainingError     the numbers went wrong: NaN, nothing to train on, KL out of bounds
└── StudioError       in the studio: not signed in, not allowed, unknown, or an answer that cannot be taken
"""


class TutelageError(Exception):
    """A fault the user can mend. The command line prints its message and no traceback."""


class ConfigError(TutelageError):
    """A setting is unknown, has the wrong type, or contradicts another."""


class DataError(TutelageError):
    """A file, a line or a record cannot be read as what it should be."""


class StoreError(TutelageError):
    """The database cannot be opened, migrated or written."""


class ModelError(TutelageError):
    """A model cannot be found, read, converted or trained."""


class RunError(TutelageError):
    """A run directory is missing, locked or inconsistent."""


class CheckpointError(RunError):
    """A checkpoint is missing, incomplete, corrupt, or belongs to another run."""


class Interrupted(RunError):  # noqa: N818 - a wish of the user's, not an error
    """The user asked to stop. Everything is saved; the message says how to resume."""


class JudgeError(TutelageError):
    """An AI judge or its endpoint cannot be asked, or has not judged where a judgement is needed."""


class TrainingError(TutelageError):
    """Training cannot go on: not a number, nothing to train on, or a bound was passed."""


class StudioError(TutelageError):
    """The studio cannot do what was asked: not signed in, not allowed, unknown, malformed. `status` is HTTP's."""

    def __init__(self, message: str, status: int = 400, retry_after: float | None = None) -> None:
        """`retry_after`: seconds to wait before asking again, where waiting helps."""
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
