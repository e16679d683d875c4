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
from ..codebook.classifiers import direction_features, sigmoid
from ..config import FirewallConfig
from .activations import extract
from .compiler import CompileOptions, chosen_examples, fit_basis, open_model
from .fitting import GROUPS, Task, held_out_logits
from .measures import Columns, curves, role_figures, source_figures
from .places import Places, Rows, place_labels, place_means

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
    blocks = extract(model, examples, options.windows, options.max_tokens, cache)
    places = place_means(blocks, *fit_basis(blocks, rows, options), options.windows)
    scores = np.zeros(len(examples))
    for role in get_args(Role):
        mine = rows.role == role
        scores[mine] = sigmoid(held_out(role, places, rows, options)[mine])
    shown = np.flatnonzero(~rows.composed)
    columns = Columns.of(
        [examples[index] for index in shown], [float(s) for s in scores[shown]], [0] * len(shown)
    )
    return {"groups": GROUPS, **held_out_figures(columns)}


def held_out(
    role: Role, places: Places, rows: Rows, options: CompileOptions
) -> NDArray[np.float64]:
    """A logit for each text, from a classifier that was fitted without its source."""
    labels, usable = place_labels(role, places, rows)
    normal = places.z[(rows.role == role)[places.example] & ~rows.attack[places.example]]
    scale = np.maximum(normal.std(axis=0), 1e-6)
    features = direction_features(places.z, normal.mean(axis=0), scale)
    task = Task(role, features, labels, usable, places, rows, options.head, options.seed)
    return held_out_logits(task, GROUPS)


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
