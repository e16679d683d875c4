"""The evaluation as one HTML file: no script, no link, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Any

from ..extras import require_extra
from . import plots

__all__ = ["render", "require_packages"]

_CURVES = 3  # baselines drawn beside the detector; the table has all


def require_packages() -> None:
    """Raises `MissingExtraError` without what a report is made with."""
    require_extra("report", "jinja2", "matplotlib")


def render(figures: dict[str, Any]) -> str:
    """The page for the figures of `evaluate`; the same figures give the same page.

    Raises `MissingExtraError` without jinja2 or matplotlib.
    """
    require_packages()
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=_percent, score=_score, signed=_signed, highest=_highest)
    source = resources.files(__package__).joinpath("report.html.jinja").read_text("utf-8")
    plotted = {role: _plots(figures, role) for role in figures["roles"]}
    return environment.from_string(source).render(f=figures, plots=plotted)


def _plots(figures: dict[str, Any], role: str) -> dict[str, str]:
    curves = figures["curves"][role]
    if not curves:
        return {}
    return {
        "roc": plots.roc(curves["roc"], _other_curves(figures, role)),
        "distribution": plots.distribution(
            curves["distribution"], figures["detector"]["thresholds"][role]
        ),
        "reliability": plots.reliability(curves["reliability"]),
    }


def _other_curves(figures: dict[str, Any], role: str) -> list[tuple[str, Any]]:
    """The held-out training sources, then the baselines with the highest AUC."""
    held_out = figures["loso"].get("curves", {}).get(role, {}).get("roc")
    baselines = sorted(figures["baselines"], key=lambda b: -(b["roles"][role]["auc"] or 0))
    # A dollar sign would start a formula in a legend.
    named = [
        (b["name"].replace("$", r"\$"), b["curves"][role].get("roc")) for b in baselines[:_CURVES]
    ]
    return [("training sources, held out", held_out), *named]


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def _score(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}"


def _highest(rows: Iterable[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """The rows by one of their values, the highest first, those without one last."""
    return sorted(rows, key=lambda row: (row[key] is None, -(row[key] or 0)))
