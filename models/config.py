"""The base of every typed parameter set (defaults live beside the code that they configure)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from typing_extensions import Self


class Params(BaseModel):
    """Frozen, validated, and closed: an unknown key is an error (``pipeline.training.config`` names the nearest)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def settled(self, steps: int) -> Self:
        """The parameters of a run of so many steps, with what depends on its length filled in (see ``scaled_keep``)."""
        return self
