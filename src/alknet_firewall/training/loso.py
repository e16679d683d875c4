"""Leave-one-source-out over the training sources.

Nobody's scores are as honest as those of texts whose source was held out. A
classifier is trained without a group of sources, and without the documents
composed from them, and scores those; every training text is so scored once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ..alarm import Role
from ..codebook.head import ROLES, sigmoid
from ..config import FirewallConfig
from .compiler import CompileOptions, cache_folder, chosen_examples, open_model, prepare
from .fitting import GROUPS, held_out_logits
from .measures import Columns, curves, role_figures, source_figures
from .sequences import Rows

__all__ = ["held_out_figures", "leave_sources_out"]


def leave_sources_out(
    train: Path,
    config: FirewallConfig,
    cache: Path | None = None,
    options: CompileOptions | None = None,
) -> dict[str, Any]:
    """Figures of the training texts, each judged by a classifier that saw nothing
    of its source. `cache` may be the one of `compile`. Takes minutes to an hour."""
    options = options or CompileOptions()
    model = open_model(None, None, config)
    examples, _ = chosen_examples(train, options)
    rows = Rows.of(examples)
    with cache_folder(cache) as folder:
        task, _ = prepare(model, examples, rows, options, folder)
    logits = held_out_logits(task)
    column = np.array([ROLES.index(example.role) for example in examples])
    scores = sigmoid(logits[np.arange(len(examples)), column])

    def columns(chosen: NDArray[np.bool_]) -> Columns:
        shown = np.flatnonzero(chosen)
        found = [float(score) for score in scores[shown]]
        return Columns.of([examples[index] for index in shown], found, [0] * len(shown))

    figures = {"groups": GROUPS, **held_out_figures(columns(~rows.composed))}
    # Wrappers are held out as sources are: what the head makes of new ones.
    judged = rows.composed & np.isfinite(logits[:, 0])
    figures["roles"]["tool, composed"] = _ranked(columns(judged).of_role("tool"))
    return figures


def held_out_figures(rows: Columns) -> dict[str, Any]:
    """What held-out scores are worth. The levels are ignored: thresholds are set
    on these very scores."""
    unjudged = replace(rows, level=np.zeros_like(rows.level))
    return {
        "roles": {role: _ranked(unjudged.of_role(role)) for role in get_args(Role)},
        "curves": {role: curves(unjudged.of_role(role)) for role in get_args(Role)},
        "sources": [
            {key: value for key, value in row.items() if key not in ("flagged", "dangerous")}
            for row in source_figures(unjudged)
        ],
    }


def _ranked(rows: Columns) -> dict[str, Any]:
    return {key: value for key, value in role_figures(rows).items() if key != "shipped"}
