"""Thresholds for one deployment, from its own normal traffic.

Only thresholds change, and with `regions` the splines that explain an alarm and the
limit of what is anomalous; the classifiers stay as they were compiled. Nothing depends
on the day or the machine: the same traffic and codebook give the same files.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import ceil, floor, nextafter
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..alarm import Role
from ..codebook import Codebook
from ..codebook.detection import EarlyExit, distances
from ..codebook.drift import Drift, drift, drift_table
from ..codebook.splines import fit_splines
from ..config import FirewallConfig, Thresholds
from ..errors import DataError, TextTooLongError
from ..firewall import Firewall
from ..model.protocol import DetectorModel
from .traffic import Traffic, place_coordinates, read_traffic

__all__ = [
    "Calibration",
    "CalibrationOptions",
    "TrafficDrift",
    "calibrate",
    "calibration_table",
    "drift_report",
    "interval",
    "needed_rows",
    "threshold_for",
    "traffic_drift",
]

_SPLINE_TEXTS = 200  # the outermost knots are the 0.5 % quantiles

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CalibrationOptions:
    """The false-positive rates to set. Without one for DANGEROUS its threshold stays,
    or rises to that of SUSPICIOUS."""

    suspicious_rate: float
    dangerous_rate: float | None = None
    regions: bool = False


@dataclass(frozen=True, slots=True)
class Calibration:
    """What changed. Rates are shares of the traffic that are at or above a threshold;
    `scores` are those of its texts."""

    role: Role
    traffic: Traffic
    before: Thresholds
    after: Thresholds
    scores: Scores

    def flagged(self, threshold: float) -> int:
        """How many of the texts reach a threshold."""
        return int((self.scores >= threshold).sum())


def calibrate(
    codebook: Codebook,
    model: DetectorModel,
    config: FirewallConfig,
    path: Path,
    role: Role,
    options: CalibrationOptions,
) -> tuple[Codebook, Calibration]:
    """A copy of the codebook with thresholds for `role` set from the traffic in `path`.

    Raises `DataError` for traffic that cannot be read or is too little for the
    rates: `needed_rows` says how much is enough.
    """
    traffic = read_traffic(path, role)
    _check(traffic, options)
    if options.regions:
        codebook = _with_splines(codebook, model, traffic, role)
    # After the splines: whatever of them enters a score is in these.
    scores = _scores(codebook, model, config, traffic, role)
    before = codebook.thresholds[role]
    found = Calibration(role, traffic, before, _thresholds(scores, before, options, path), scores)
    return _recorded(codebook, found, options), found


def needed_rows(rate: float) -> int:
    """How many distinct texts a false-positive rate needs: 3 / rate, rounded up.

    The rule of three: had none of so many texts been flagged, a rate above
    `rate` could be excluded at 95 %. With fewer the threshold would hang on one
    or two texts.
    """
    return ceil(round(3 / rate, 6))


def threshold_for(scores: Scores, rate: float) -> float:
    """The lowest threshold that at most this share of the scores reach.

    It is the k-th highest score, k = floor(rate * n): a new text from the same
    traffic reaches it with a chance of at most k / (n + 1). Above 1 if more
    than k scores are 1.
    """
    ordered = np.sort(scores)[::-1]
    allowed = floor(round(rate * len(ordered), 6))
    reached = ordered[:allowed]
    if allowed == len(ordered):
        return float(ordered[-1])
    higher = reached[reached > ordered[allowed]]
    return float(higher[-1]) if len(higher) else nextafter(float(ordered[allowed]), 2.0)


def interval(flagged: int, rows: int) -> tuple[float, float]:
    """The 95 % confidence interval of a rate (Clopper and Pearson, 1934)."""
    from scipy.stats import binomtest

    found = binomtest(flagged, rows).proportion_ci(0.95, method="exact")
    return float(found.low), float(found.high)


def _check(traffic: Traffic, options: CalibrationOptions) -> None:
    rates = {"--fpr": options.suspicious_rate, "--dangerous-fpr": options.dangerous_rate}
    for name, rate in rates.items():
        if rate is None:
            continue
        if not 0 < rate < 1:
            raise DataError(f"{name} must be between 0 and 1, and is {rate:g}")
        if len(traffic.texts) < needed_rows(rate):
            raise DataError(
                f"{traffic.file}: holds {len(traffic.texts)} distinct texts and {name} {rate:g} "
                f"needs {needed_rows(rate)} (3 / rate): add traffic, or ask for a higher rate"
            )
    if options.dangerous_rate and options.dangerous_rate > options.suspicious_rate:
        raise DataError(
            f"--dangerous-fpr {options.dangerous_rate:g} is above --fpr "
            f"{options.suspicious_rate:g}: DANGEROUS must be the rarer level"
        )
    if options.regions and len(traffic.texts) < _SPLINE_TEXTS:
        raise DataError(
            f"{traffic.file}: holds {len(traffic.texts)} distinct texts and --regions needs "
            f"{_SPLINE_TEXTS}: add traffic, or leave --regions out"
        )


def _scores(
    codebook: Codebook, model: DetectorModel, config: FirewallConfig, traffic: Traffic, role: Role
) -> Scores:
    # A score of the first layer alone is for what lies far below a threshold.
    firewall = Firewall(replace(config, early_exit=False), model=model, codebook=codebook)

    def score(numbered: tuple[int, str]) -> float:
        try:
            return firewall.screen(numbered[1], role).score
        except TextTooLongError as error:
            raise DataError(f"{traffic.file}, line {numbered[0]}: {error}") from error

    firewall.preload()
    texts = list(zip(traffic.lines, traffic.texts, strict=True))
    with ThreadPoolExecutor(max_workers=2) as pool:
        return np.array(
            list(tqdm(pool.map(score, texts), desc="screening", unit="text", total=len(texts)))
        )


def _thresholds(
    scores: Scores, before: Thresholds, options: CalibrationOptions, path: Path
) -> Thresholds:
    suspicious = threshold_for(scores, options.suspicious_rate)
    if options.dangerous_rate is None:
        dangerous = max(before.dangerous, suspicious)
    else:
        dangerous = max(threshold_for(scores, options.dangerous_rate), suspicious)
    if dangerous > 1:
        raise DataError(
            f"{path}: more of its texts than the rate allows have the highest score there is, so "
            "no threshold lets them pass: look whether they are attacks, or ask for a higher rate"
        )
    return Thresholds(suspicious, dangerous)


def _with_splines(
    codebook: Codebook, model: DetectorModel, traffic: Traffic, role: Role
) -> Codebook:
    """The codebook with the role's splines fitted to the traffic, none of it anomalous.

    Centroids and scale stay: drift is told by them.
    """
    z = place_coordinates(model, codebook, traffic.texts)
    splines = fit_splines(z.reshape(len(z), -1).astype(np.float64))
    before = codebook.regions[role]
    centroid, scale = before.profile.centroids[0], before.profile.scale[0]
    limit = max(before.anomaly_limit, float(distances(z[:, 0], centroid, scale).max()))
    region = replace(before, splines=splines, anomaly_limit=limit)
    return replace(codebook, regions=MappingProxyType({**codebook.regions, role: region}))


def _recorded(codebook: Codebook, found: Calibration, options: CalibrationOptions) -> Codebook:
    """The codebook with the new thresholds, and in its provenance where they are from."""
    traffic = found.traffic
    entry = {
        "file": traffic.file.name,
        "sha256": traffic.sha256,
        "rows": traffic.rows,
        "distinct_texts": len(traffic.texts),
        "options": asdict(options),
        "before": asdict(found.before),
        "after": asdict(found.after),
    }
    earlier = codebook.provenance.get("calibration", {})
    provenance = {**codebook.provenance, "calibration": {**earlier, found.role: entry}}
    return replace(
        codebook,
        early=_still_sound(codebook.early, found),
        thresholds=MappingProxyType({**codebook.thresholds, found.role: found.after}),
        provenance=MappingProxyType(provenance),
    )


def _still_sound(early: EarlyExit | None, found: Calibration) -> EarlyExit | None:
    """The early exit, without this role if its threshold is lower than what it was
    measured at."""
    if early is None or found.after.suspicious >= found.before.suspicious:
        return early
    return replace(early, below=MappingProxyType({**early.below, found.role: 0.0}))


def calibration_table(found: Calibration) -> str:
    """Thresholds before and after, with the rate each has on the traffic."""
    rows = len(found.traffic.texts)
    lines = [
        f"{rows} distinct texts of {found.traffic.rows} rows, role {found.role}",
        "",
        f"{'level':<10} {'':<7} {'threshold':>9} {'reached':>8} {'rate':>7}   95 % interval",
    ]
    for level in ("suspicious", "dangerous"):
        for name, limits in (("before", found.before), ("after", found.after)):
            threshold = getattr(limits, level)
            flagged = found.flagged(threshold)
            low, high = interval(flagged, rows)
            lines.append(
                f"{level.upper():<10} {name:<7} {threshold:>9.4f} {flagged:>8} "
                f"{flagged / rows:>7.2%}   {low:.2%} to {high:.2%}"
            )
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class TrafficDrift:
    """How far some traffic is from the codebook's normal text, and how much of it each
    shipped level flags: `threshold`, `flagged`, `rate` and `interval_95` by level."""

    role: Role
    drift: Drift
    flagged: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {"role": self.role, **self.drift.to_dict(), "flagged": self.flagged}


def traffic_drift(
    codebook: Codebook, model: DetectorModel, config: FirewallConfig, path: Path, role: Role
) -> TrafficDrift:
    """Compare the traffic in `path` with the codebook's normal text of `role`.

    Raises `DataError` for traffic that cannot be read.
    """
    traffic = read_traffic(path, role)
    z = place_coordinates(model, codebook, traffic.texts)
    scores = _scores(codebook, model, config, traffic, role)
    found = drift(z, len(traffic.texts), codebook.regions[role], codebook.layers)
    limits = asdict(codebook.thresholds[role])
    return TrafficDrift(role, found, {level: _rate(scores, limits[level]) for level in limits})


def _rate(scores: Scores, threshold: float) -> dict[str, Any]:
    flagged = int((scores >= threshold).sum())
    return {
        "threshold": threshold,
        "flagged": flagged,
        "rate": flagged / len(scores),
        "interval_95": list(interval(flagged, len(scores))),
    }


def drift_report(found: TrafficDrift) -> str:
    """The drift and the flagged shares as text for a terminal."""
    lines = [
        f"{level.upper():<10} {rate['flagged']} of {found.drift.texts} texts, {rate['rate']:.2%} "
        f"(95 % interval {rate['interval_95'][0]:.2%} to {rate['interval_95'][1]:.2%})"
        for level, rate in found.flagged.items()
    ]
    return "\n".join([*lines, drift_table(found.drift)])
