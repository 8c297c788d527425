"""The base of every typed parameter set (defaults live beside the code that they configure)."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Params(BaseModel):
    """Frozen, validated, and closed: an unknown key is an error (``pipeline.training.config`` names the nearest)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
