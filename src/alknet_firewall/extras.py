"""Optional dependencies, asked for where they are needed."""

from __future__ import annotations

from importlib import import_module

from .errors import MissingExtraError

__all__ = ["require_extra"]

_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def require_extra(extra: str, *modules: str) -> None:
    """Raise `MissingExtraError` unless every one of these modules of an extra is there."""
    for module in modules:
        try:
            import_module(module)
        except ImportError:
            raise MissingExtraError(_DISTRIBUTIONS.get(module, module), extra) from None
