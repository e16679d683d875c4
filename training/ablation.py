"""What each part of the detector adds, on sources that were held out.

    uv run training/ablation.py --data DIR --cache DIR [--only NAME ...] [--steps N] [--json OUT]

Compiles nothing. For each variant a head is trained as `alknet-firewall
compile` trains those that set the thresholds: each without a group of the
training sources, and judged on those. AUC and recall at 1 % false positives,
every source counting the same; composed texts are not judged. `--cache` may be
the one of `compile`. About five minutes a variant on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtri

from alknet_firewall.codebook.head import ROLES
from alknet_firewall.codebook.lexical import BUCKETS
from alknet_firewall.config import FirewallConfig
from alknet_firewall.training import stats
from alknet_firewall.training.compiler import CompileOptions, chosen_examples, open_model, prepare
from alknet_firewall.training.fitting import Task, held_out_logits, held_out_words
from alknet_firewall.training.heads import HeadOptions
from alknet_firewall.training.sequences import Rows, Sequences

Mask = NDArray[np.bool_]

FALSE_POSITIVES = 0.01


def every_text(rows: Rows) -> Mask:
    return np.ones(len(rows.attack), dtype=bool)


def every_input(shape: tuple[int, int]) -> Mask:
    return np.ones(shape, dtype=bool)


def only_layers(*kept: int) -> Callable[[tuple[int, int]], Mask]:
    return lambda shape: np.isin(np.arange(shape[0]), kept)[:, None] & every_input(shape)


def first_directions(count: int) -> Callable[[tuple[int, int]], Mask]:
    return lambda shape: (np.arange(shape[1]) < count)[None] & every_input(shape)


def without(*families: str) -> Callable[[Rows], Mask]:
    """Texts of other kinds than these: those whose source starts so leave."""
    starts = tuple(f"({family}" for family in families)
    return lambda rows: ~np.array([source.startswith(starts) for source in rows.source])


@dataclass(frozen=True, slots=True)
class Variant:
    """A change to what is shipped: which texts teach, which inputs are seen."""

    name: str
    texts: Callable[[Rows], Mask] = every_text
    inputs: Callable[[tuple[int, int]], Mask] = every_input
    ordered: bool = True
    """Blocks stand in the order of the text; otherwise they are shuffled."""
    gaussian: bool = False
    """Each input is bent to the normal distribution, over blocks of normal text."""
    shared: bool = True
    """Attacks on users teach the tool role."""
    words: bool = True
    """N-grams count beside the head."""
    surprisal: bool = True
    """What follows from nothing counts."""
    spelling: bool = True
    """N-grams of characters count beside those of tokens."""
    states: bool = True
    """The head counts beside n-grams."""


VARIANTS = [
    Variant("as shipped"),
    Variant("without the last layer", inputs=only_layers(0, 1)),
    Variant("the first layer", inputs=only_layers(0)),
    Variant("the last layer", inputs=only_layers(2)),
    Variant("64 directions a layer", inputs=first_directions(64)),
    Variant("blocks shuffled", ordered=False),
    Variant("Gaussianised inputs", gaussian=True),
    Variant("no composed texts", texts=lambda rows: ~rows.composed),
    Variant("no poisoned documents", texts=without("poisoned", "requests")),
    Variant("no written phrases on their own", texts=without("written")),
    Variant("no set-ups", texts=without("framed", "tactical")),
    Variant("no disguises", texts=without("disguised", "evading")),
    Variant("hidden states only", words=False),
    Variant("words only", states=False),
    Variant("no surprisal", surprisal=False),
    Variant("no spelling", spelling=False),
    Variant("words only, no spelling", spelling=False, states=False),
    Variant("user attacks teach user only", shared=False),
]


def changed(task: Task, variant: Variant, shape: tuple[int, int]) -> Task:
    """The task of a variant. Inputs that are not seen are zero: the mean of normal text."""
    sequences, targets = task.sequences, task.targets
    x = sequences.x * (variant.inputs(shape).ravel() * variant.states)
    if variant.gaussian:
        bend(x, normal_blocks(task))
    if not variant.ordered:
        x = x[shuffled(sequences)]
    counts = targets.counts * variant.texts(task.rows)[sequences.example][:, None]
    if not variant.shared:
        counts[:, ROLES.index("tool")] *= (task.rows.role == "tool")[sequences.example]
    return replace(
        task,
        sequences=replace(sequences, x=x),
        surprise=task.surprise * variant.surprisal,
        words=csr_array(task.words * (seen_words(variant) * variant.words)),
        targets=replace(targets, counts=counts),
    )


def seen_words(variant: Variant) -> NDArray[np.float32]:
    """1 for each bucket that the variant reads."""
    return np.repeat(np.array([1, variant.spelling], np.float32), BUCKETS)


def normal_blocks(task: Task) -> NDArray[np.int64]:
    """Some blocks of harmless texts."""
    windows = np.flatnonzero(~task.rows.attack[task.sequences.example])
    drawn = np.random.default_rng(0).choice(windows, 20_000)
    return np.asarray(task.sequences.start[drawn])


def bend(x: NDArray[np.float16], normal: NDArray[np.int64]) -> None:
    """Each column through the quantiles of its normal values, in place."""
    levels = (np.arange(200) + 0.5) / 200
    for column in x.T:
        column[:] = np.interp(column, np.quantile(column[normal], levels), ndtri(levels))


def shuffled(sequences: Sequences) -> NDArray[np.int64]:
    rng, whole = np.random.default_rng(0), ~sequences.part
    orders = [
        first + rng.permutation(last - first)
        for first, last in zip(sequences.start[whole], sequences.end[whole], strict=True)
    ]
    return np.concatenate(orders)


def judged(task: Task, words: NDArray[np.float64] | None) -> list[dict[str, Any]]:
    logits, rows = held_out_logits(task, words=words), task.rows
    found = []
    for column, role in enumerate(ROLES):
        mine = (rows.role == role) & ~rows.composed
        attack, score = rows.attack[mine], logits[mine, column]
        weights = stats.equal_source_weights(rows.source[mine], attack)
        recall = stats.recall_at(score, attack, weights, FALSE_POSITIVES)
        area = stats.auc(score, attack, weights)
        found.append({"role": role, "auc": area, f"recall_at_{FALSE_POSITIVES}": recall})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of variants")
    parser.add_argument("--steps", type=int, default=HeadOptions().held_out_steps)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    options = CompileOptions(head=HeadOptions(held_out_steps=arguments.steps))
    model = open_model(None, None, FirewallConfig())
    examples, _ = chosen_examples(arguments.data, options)
    prepared = prepare(model, examples, Rows.of(examples), options, arguments.cache)
    task, basis = prepared.task, prepared.basis
    results: list[dict[str, Any]] = []
    words = held_out_words(task)
    for variant in VARIANTS:
        if arguments.only and variant.name not in arguments.only:
            continue
        shape = (basis.vectors.shape[0], basis.vectors.shape[1])
        same = variant.texts is every_text and variant.shared and variant.spelling
        counted = words if variant.words else np.where(np.isfinite(words), 0.0, words)
        known = counted if same else None
        for row in judged(changed(task, variant, shape), known):
            results.append({"variant": variant.name, **row})
            print(f"{variant.name:<34} {row['role']:<5} AUC {row['auc']:.3f}", end="  ")
            print(f"recall at 1 % {row['recall_at_0.01']:.3f}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
