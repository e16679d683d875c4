"""What each part of the detector adds, on sources that were held out.

    uv run training/ablation.py --data DIR --cache DIR [--json OUT]

Compiles nothing. For each variant and role, classifiers are trained as
`alknet-firewall compile` trains them, each without a fifth of the training
sources, and judged on those: AUC and recall at 1 % false positives, every
source counting the same. `--cache` may be the one of `compile`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from alknet_firewall.alarm import Role
from alknet_firewall.codebook.classifiers import DirectionClassifier, direction_features, sigmoid
from alknet_firewall.codebook.splines import fit_splines
from alknet_firewall.config import FirewallConfig
from alknet_firewall.training import stats
from alknet_firewall.training.activations import extract
from alknet_firewall.training.compiler import CompileOptions, chosen_examples, fit_basis, open_model
from alknet_firewall.training.fitting import SUSPICIOUS_RATE, Task, held_out_logits
from alknet_firewall.training.places import (
    Places,
    Rows,
    place_labels,
    place_means,
    place_weights,
)

Array = NDArray[np.float32]
Features = Callable[[Array, Array, Array], Array]
"""(z of all places, z of normal places, z of attack places) -> features."""


def standard(z: Array, normal: Array, attacks: Array) -> Array:
    scale = np.maximum(normal.std(axis=0), 1e-6)
    return direction_features(z, normal.mean(axis=0), scale)


def gaussianised(z: Array, normal: Array, attacks: Array) -> Array:
    """The spline CDF of normal text through the normal quantile function."""
    from scipy.special import ndtri

    cdf = _cdf(normal, z)
    return np.asarray(ndtri(np.clip(cdf, 1e-6, 1 - 1e-6)), dtype=np.float32)


def with_simplex(z: Array, normal: Array, attacks: Array) -> Array:
    """The standard features and, per direction, where the CDFs under normal
    text and under attacks lie on the simplex: their share and their sum."""
    ours, theirs = _cdf(normal, z), _cdf(attacks, z)
    total = ours + theirs
    share = np.divide(ours, total, out=np.full_like(ours, 0.5), where=total > 0)
    extra = np.concatenate([share - 0.5, total - 1], axis=1).astype(np.float32)
    return np.concatenate([standard(z, normal, attacks), extra], axis=1)


def _cdf(population: Array, z: Array) -> NDArray[np.float64]:
    table = fit_splines(population.reshape(len(population), -1).astype(np.float64))
    flat = z.reshape(len(z), -1)
    chunks = [table.cdf(chunk.astype(np.float64)) for chunk in np.array_split(flat, 200)]
    return np.concatenate(chunks)


class LinearTask(Task):
    """The same task with plain logistic regression (L2, L-BFGS)."""

    def fit(self, chosen: NDArray[np.bool_]) -> DirectionClassifier:
        index = np.flatnonzero(chosen)
        features, labels = self.features[index], self.labels[index]
        weights = place_weights(labels, self.places.example[index], self.rows) / 2

        def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            logits = features @ w[1:].astype(np.float32) + w[0]
            error = weights * (sigmoid(logits) - labels)
            cost = (weights * (np.logaddexp(0, logits) - labels * logits)).sum()
            slope = error.astype(np.float32) @ features + 1e-3 * w[1:]
            return float(cost + 5e-4 * (w[1:] ** 2).sum()), np.append(error.sum(), slope)

        w = minimize(
            loss, np.zeros(features.shape[1] + 1), jac=True, options={"maxiter": 60}
        ).x.astype(np.float32)
        # silu(x) - silu(-x) = x, so a pair of units passes the sum through.
        return DirectionClassifier(
            np.stack([w[1:], -w[1:]], axis=1),
            np.zeros(2, np.float32),
            np.array([1, -1], np.float32),
            w[:1],
        )


@dataclass(frozen=True)
class Variant:
    name: str
    layers: tuple[int, ...] = (0, 1, 2)
    """Positions among the extracted layers."""
    dimensions: int = 256
    features: Features = standard
    task: type[Task] = Task
    composed: bool = True
    user_attacks: bool = True


GROUPS = 5

VARIANTS = [
    Variant("as compiled"),
    Variant("64 directions a layer", dimensions=64),
    Variant("first and second layer only", layers=(0, 1)),
    Variant("second and third layer only", layers=(1, 2)),
    Variant("linear classifier", task=LinearTask),
    Variant("spline (Gaussianised) features", features=gaussianised),
    Variant("64 directions, simplex features added", dimensions=64, features=with_simplex),
    Variant("no composed documents", composed=False),
    Variant("no attacks on users for tool", user_attacks=False),
]


def judge(
    variant: Variant, role: Role, places: Places, rows: Rows, options: CompileOptions
) -> tuple[float, float]:
    """(AUC, recall at 1 % false positives) of one variant on held-out sources."""
    z = np.ascontiguousarray(places.z[:, list(variant.layers), : variant.dimensions])
    labels, usable = place_labels(role, places, rows)
    if not variant.composed:
        usable &= ~rows.composed[places.example]
    if not variant.user_attacks:
        usable &= (rows.role == role)[places.example]
    mine = (rows.role == role)[places.example]
    normal = z[mine & ~rows.attack[places.example]]
    features = variant.features(z, normal, z[usable & (labels > 0)])
    task = variant.task(role, features, labels, usable, places, rows, options.head, options.seed)
    logits = held_out_logits(task, GROUPS)
    shown = (rows.role == role) & ~rows.composed
    scores, attack = logits[shown], rows.attack[shown]
    weights = stats.equal_source_weights(rows.source[shown], attack)
    threshold = stats.threshold_at(scores[~attack], weights[~attack], SUSPICIOUS_RATE)
    recall = stats.weighted_share_above(scores[attack], weights[attack], threshold)
    return stats.auc(scores, attack, weights), recall


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help="run the variants whose name contains this")
    arguments = parser.parse_args()
    options = replace(CompileOptions(), n_dimensions=max(v.dimensions for v in VARIANTS))
    model = open_model(None, None, FirewallConfig())
    examples, _ = chosen_examples(arguments.data, options)
    rows = Rows.of(examples)
    blocks = extract(model, examples, options.windows, options.max_tokens, arguments.cache)
    places = place_means(blocks, *fit_basis(blocks, rows, options), options.windows)
    figures = {}
    print(f"{'variant':<38} " + "  ".join(f"{role} AUC / R@1%" for role in get_args(Role)))
    for variant in VARIANTS:
        if arguments.only and arguments.only not in variant.name:
            continue
        found = {role: judge(variant, role, places, rows, options) for role in get_args(Role)}
        figures[variant.name] = found
        cells = "  ".join(f"{auc:.3f} / {recall:.3f}  " for auc, recall in found.values())
        print(f"{variant.name:<38} {cells}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
