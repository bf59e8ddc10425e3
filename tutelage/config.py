"""Section: the base of every block of settings. Frozen; an unknown key is an error, and so is a number not finite."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy takes, and what PPO can multiply without overflow


class Section(BaseModel):
    """A frozen block of settings; it sits in the file it configures, and its help is the docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
