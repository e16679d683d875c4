"""Leave-one-source-out over the training sources.

Nobody's scores are as honest as those of texts whose source was held out. A
classifier is trained without a group of sources, and without the documents
composed from them, and scores those; every training text is so scored once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config import FirewallConfig
from .compiler import CompileOptions, cache_folder, chosen_examples, open_model, prepare
from .fitting import held_out_logits
from .held_out import held_out_curves, held_out_figures
from .sequences import Rows

__all__ = ["leave_sources_out"]


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
        task = prepare(model, examples, rows, options, folder).task
    logits = held_out_logits(task)
    return {
        **held_out_figures(examples, logits),
        "curves": held_out_curves(examples, logits),
    }
