"""What deeper layers would tell of user texts, on sources that were held out.

    uv run training/depth.py --data DIR --cache DIR [--layers 2,6,8 8,12,16 ...] [--rows N]
        [--tokens N] [--steps N] [--json OUT]

Compiles nothing. Every choice of layers gets a head of its own, trained without a group of
the training sources and judged on those, beside n-grams as shipped. AUC and recall at 1, 3
and 5 % false positives, every source counting the same. A sample of the collected and written
user texts, so many of each source and label, is read down to the deepest of the layers: some ten
minutes for 7,000 texts and 20 layers on two cores without VNNI, and one or two for each choice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alknet_firewall.config import FirewallConfig
from alknet_firewall.training import stats
from alknet_firewall.training.compiler import CompileOptions, chosen_examples, open_model, prepare
from alknet_firewall.training.data_loader import sample
from alknet_firewall.training.fitting import Task, held_out_logits, held_out_words
from alknet_firewall.training.heads import HeadOptions
from alknet_firewall.training.sequences import Rows

CHOICES = ["2,6,8", "2,8,12", "2,8,16", "8,12,16", "2,12,20"]
FALSE_POSITIVES = (0.01, 0.03, 0.05)


def reading(task: Task, layers: Sequence[int], known: Sequence[int]) -> Task:
    """The task of a head that reads only these of the known layers."""
    each = task.scale.size // len(known)
    columns = np.concatenate([each * known.index(layer) + np.arange(each) for layer in layers])
    x = np.ascontiguousarray(task.sequences.x[:, columns])
    return replace(task, sequences=replace(task.sequences, x=x), scale=task.scale[columns])


def judged(task: Task, words: NDArray[np.float64]) -> dict[str, float]:
    score, rows = held_out_logits(task, words=words)[:, 0], task.rows
    weights = stats.equal_source_weights(rows.source, rows.attack)
    found = {"auc": stats.auc(score, rows.attack, weights)}
    for rate in FALSE_POSITIVES:
        found[f"recall_at_{rate}"] = stats.recall_at(score, rows.attack, weights, rate)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--layers", nargs="*", default=CHOICES, help="as in 2,6,8")
    parser.add_argument("--rows", type=int, default=45, help="of each source and label")
    parser.add_argument("--tokens", type=int, default=128, help="of a text that are read")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    choices = [[int(layer) for layer in choice.split(",")] for choice in arguments.layers]
    known = sorted({layer for choice in choices for layer in choice})
    options = CompileOptions(
        head=HeadOptions(held_out_steps=arguments.steps), max_tokens=arguments.tokens
    )
    model = open_model(None, tuple(known), FirewallConfig())
    chosen, _ = chosen_examples(arguments.data, options)
    users = (example for example in chosen if example.role == "user" and not example.composed)
    examples = sample(users, arguments.rows, options.seed)
    task = prepare(model, examples, Rows.of(examples), options, arguments.cache).task
    words = held_out_words(task)
    results: list[dict[str, Any]] = []
    for layers in choices:
        results.append({"layers": layers, **judged(reading(task, layers, known), words)})
        figures = "  ".join(
            f"{name} {results[-1][name]:.3f}" for name in results[-1] if name != "layers"
        )
        print(f"layers {layers!s:<14} {figures}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
