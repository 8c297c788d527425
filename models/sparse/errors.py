"""Errors of the sparse engine."""

from __future__ import annotations

from ssl3d.data.errors import Ssl3dError


class SparseTensorError(Ssl3dError, ValueError):
    """Coordinates, features or maps that do not make a sparse tensor. Also a ``ValueError`` for library users."""
