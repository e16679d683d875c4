"""What to compare a detector with: words alone, anomaly alone, and other programs.

A baseline is fitted on the training folder and judges the rows of the report;
it never sees those rows before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..alarm import Role
from ..codebook.projection import project
from ..codebook.splines import SplineTable, fit_splines
from ..config import FirewallConfig
from ..errors import DataError
from ..extras import require_extra
from ..firewall import readable
from ..model.embedded import EmbeddedModel
from ..model.protocol import DetectorModel
from . import stats
from .compiler import CompileOptions, chosen_examples
from .data_loader import Example, sample
from .measures import FALSE_POSITIVE_RATES
from .verdicts import Verdict, read_verdicts

__all__ = [
    "Baseline",
    "last_token_anomaly",
    "peers",
    "require_scikit_learn",
    "training_texts",
    "words",
]

_LONGEST = 20_000  # characters of a row that words are counted in
_LONGEST_TRAINING = 4_000  # of a training text; a codebook reads `activations.LONGEST` tokens
_FOLDS = 5
_PHASE1_LAYERS = (1, 2, 4, 8)
_PHASE1_DIRECTIONS = 64
_PHASE1_ROWS = 150  # of each source and role
_CONTEXT = 512  # tokens before and with the last one

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A named detector and its verdict on each row of the report, in order."""

    name: str
    what: str
    verdicts: Sequence[Verdict]


def require_scikit_learn() -> None:
    """Raises `MissingExtraError` if it is not installed."""
    require_extra("report", "sklearn")


def training_texts(folder: Path) -> list[Example]:
    """The texts a codebook is compiled from: sampled and composed."""
    return chosen_examples(folder, CompileOptions())[0]


def words(train: Sequence[Example], rows: Sequence[Example]) -> Baseline:
    """TF-IDF of word and character n-grams, and logistic regression, one a role.

    It learns from the texts a codebook learns from, and its threshold is set
    as a codebook's: 1 % of normal texts whose source was held out. Raises
    `MissingExtraError` without scikit-learn.
    """
    require_scikit_learn()
    verdicts: dict[int, Verdict] = {}
    for role in get_args(Role):
        relevant = [e for e in train if e.role == role or (role == "tool" and e.label == "attack")]
        mine = [index for index, row in enumerate(rows) if row.role == role]
        if mine:
            found = _words(role, relevant, [rows[index] for index in mine])
            verdicts.update(zip(mine, found, strict=True))
    return Baseline(
        "TF-IDF",
        "words of 1 and 2, characters of 3 to 5, logistic regression, on the same training texts",
        [verdicts[index] for index in range(len(rows))],
    )


def _words(role: Role, train: Sequence[Example], rows: Sequence[Example]) -> list[Verdict]:
    classifier, features = _word_classifier(), _word_features()
    known = features.fit_transform([example.text[:_LONGEST_TRAINING] for example in train])
    labels = np.array([example.label == "attack" for example in train])
    sources = np.array([example.source for example in train])
    held_out = _held_out(classifier, known, labels, sources, role)
    normal = np.array([e.role == role and e.label == "benign" and not e.composed for e in train])
    threshold = _one_percent(held_out[normal], sources[normal])
    classifier.fit(known, labels)
    new = features.transform([row.text[:_LONGEST] for row in rows])
    return _verdicts(classifier.predict_proba(new)[:, 1], threshold)


def _held_out(
    classifier: Any,
    features: Any,
    labels: NDArray[np.bool_],
    sources: NDArray[np.str_],
    role: Role,
) -> Scores:
    """Probabilities from classifiers that saw nothing of a text's source."""
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    try:
        folds = StratifiedGroupKFold(min(_FOLDS, len(set(sources))))
        found = cross_val_predict(
            classifier, features, labels, groups=sources, cv=folds, method="predict_proba"
        )
    except ValueError as error:
        raise DataError(
            f"the training folder's {role} rows cannot be held out by source: it needs harmless "
            "rows and attacks of at least two sources each"
        ) from error
    return np.asarray(found[:, 1])


def _word_features() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    common = {"sublinear_tf": True, "min_df": 2, "max_features": 100_000, "dtype": np.float32}
    return FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), **common)),
            ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), **common)),
        ]
    )


def _word_classifier() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10, class_weight="balanced", solver="liblinear", random_state=0)


def _one_percent(scores: Scores, sources: NDArray[np.str_]) -> float:
    weights = stats.equal_source_weights(sources, np.zeros(len(scores), dtype=bool))
    return stats.threshold_at(scores, weights, FALSE_POSITIVE_RATES[0])


def _verdicts(scores: Scores, threshold: float) -> list[Verdict]:
    return [Verdict.of_score(float(score), bool(score > threshold)) for score in scores]


def last_token_anomaly(
    train: Sequence[Example], rows: Sequence[Example], config: FirewallConfig
) -> Baseline:
    """The plain first design: last token, splines of normal text, no classifier.

    Hidden states of the last token after layers 1, 2, 4 and 8, their SVD basis
    and spline CDFs from harmless training texts of the role; the score is how
    rare the directions are together, 1 - exp(mean log of the two-sided tail
    probabilities). Its threshold is 1 % of those same harmless texts.
    """
    model = EmbeddedModel(
        _PHASE1_LAYERS,
        threads=config.threads,
        cache_dir=config.cache_dir,
        local_files_only=config.local_files_only,
    )
    states = _last_states(model, rows, "last tokens of the rows")
    verdicts: dict[int, Verdict] = {}
    for role in get_args(Role):
        normal = [e for e in train if e.role == role and e.label == "benign" and not e.composed]
        mine = [index for index, row in enumerate(rows) if row.role == role]
        if normal and mine:
            found = _anomalies(model, sample(normal, _PHASE1_ROWS, 0), states[mine])
            verdicts.update(zip(mine, found, strict=True))
    return Baseline(
        "last token, anomaly only",
        "hidden states of the last token, layers 1, 2, 4, 8, spline tails of normal text",
        [verdicts.get(index, Verdict.of_score(0.0, False)) for index in range(len(rows))],
    )


def _anomalies(
    model: DetectorModel, normal: Sequence[Example], states: NDArray[np.float32]
) -> list[Verdict]:
    known = _last_states(model, normal, "last tokens of normal text")
    mean = known.mean(axis=0)
    basis = np.stack([_directions(known[:, layer]) for layer in range(known.shape[1])])
    z = project(known, basis, mean)
    splines = fit_splines(z.reshape(len(z), -1).astype(np.float64))
    sources = np.array([example.source for example in normal])
    threshold = _one_percent(_rarity(splines, z), sources)
    return _verdicts(_rarity(splines, project(states, basis, mean)), threshold)


def _directions(states: NDArray[np.float32]) -> NDArray[np.float32]:
    from scipy.linalg import svd

    centred = states.astype(np.float64) - states.mean(axis=0)
    directions = svd(centred, full_matrices=False)[2]
    return np.asarray(directions[:_PHASE1_DIRECTIONS], dtype=np.float32)


def _rarity(splines: SplineTable, z: NDArray[np.float32]) -> Scores:
    tails, _ = splines.tail_probability(z.reshape(len(z), -1).astype(np.float64))
    return np.asarray(1 - np.exp(np.log(np.maximum(tails, 1e-12)).mean(axis=1)))


def _last_states(
    model: DetectorModel, examples: Sequence[Example], title: str
) -> NDArray[np.float32]:
    """`(texts, layers, hidden)`; an empty text has the state of the BOS token."""
    model.load()
    states = []
    for example in tqdm(examples, desc=title, unit="text"):
        ids = model.encode(readable(example.text)).ids[-_CONTEXT:]
        found = model.infer([model.bos_id, *ids], extraction="last_token")
        states.append(np.stack([found[layer] for layer in model.extraction_layers]))
    return np.stack(states)


def peers(folder: Path, rows: Sequence[Example]) -> tuple[list[Baseline], list[dict[str, Any]]]:
    """Other programs' verdicts, as `benchmarks/peers_detection.py` leaves them.

    Returns the baselines and the entries that have no verdicts, with the
    reason. Raises `DataError` where the rows are not those of this report.
    """
    index = folder / "peers.json"
    try:
        entries = json.loads(index.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{index}: cannot be read: make it with benchmarks/peers_detection.py"
        ) from error
    ran = [entry for entry in entries if not entry.get("problem")]
    baselines = [
        Baseline(
            f"{entry['name']} {entry['version']}", entry["what"], _read_peer(folder, entry, rows)
        )
        for entry in ran
    ]
    return baselines, [entry for entry in entries if entry.get("problem")]


def _read_peer(folder: Path, entry: dict[str, Any], rows: Sequence[Example]) -> list[Verdict]:
    path = folder / f"{entry['name']}.jsonl"
    examples, verdicts = read_verdicts(path)
    ours = [(row.text, row.role) for row in rows]
    if [(example.text, example.role) for example in examples] != ours:
        raise DataError(
            f"{path}: holds other rows than this report: write its rows with --rows and "
            "give that file to benchmarks/peers_detection.py"
        )
    return verdicts
