"""What the scores of held-out training texts are worth, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..alarm import Role
from ..codebook.head import ROLES, sigmoid
from .data_loader import Example
from .fitting import GROUPS
from .measures import Columns, curves, role_figures, source_figures
from .sequences import Rows

__all__ = ["held_out_curves", "held_out_figures"]


def held_out_figures(examples: Sequence[Example], logits: NDArray[np.float64]) -> dict[str, Any]:
    """Figures by role and source of log-odds `(texts, roles)` that are -inf for a text
    that was never held out. The levels are left out: thresholds are set on these scores."""
    rows = Rows.of(examples)
    real = _columns(examples, logits, ~rows.composed)
    # Wrappers are held out as sources are: what the head makes of new ones.
    made = _columns(examples, logits, rows.composed & np.isfinite(logits[:, 0]))
    return {
        "groups": GROUPS,
        "roles": {
            **{role: _ranked(real.of_role(role)) for role in get_args(Role)},
            "tool, composed": _ranked(made.of_role("tool")),
        },
        "sources": [
            {key: value for key, value in row.items() if key not in ("flagged", "dangerous")}
            for row in source_figures(real)
        ],
    }


def held_out_curves(examples: Sequence[Example], logits: NDArray[np.float64]) -> dict[str, Any]:
    """The curves of the texts that were not composed, by role."""
    real = _columns(examples, logits, ~Rows.of(examples).composed)
    return {role: curves(real.of_role(role)) for role in get_args(Role)}


def _columns(
    examples: Sequence[Example], logits: NDArray[np.float64], chosen: NDArray[np.bool_]
) -> Columns:
    shown = np.flatnonzero(chosen)
    texts = [examples[index] for index in shown.tolist()]
    column = np.array([ROLES.index(example.role) for example in texts], dtype=np.intp)
    scores = [float(score) for score in sigmoid(logits[shown, column])]
    found = Columns.of(texts, scores, [0] * len(texts))
    return replace(found, level=np.zeros_like(found.level))


def _ranked(rows: Columns) -> dict[str, Any]:
    return {key: value for key, value in role_figures(rows).items() if key != "shipped"}
