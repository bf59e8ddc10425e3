"""Section: the base of every block of settings. Frozen, and a key it does not know is an error."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen block of settings; it sits in the file it configures, and its help is the docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
