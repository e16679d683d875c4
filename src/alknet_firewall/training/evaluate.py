"""What a detector is worth on labelled text: screening, measuring, comparing."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tqdm import tqdm

from .. import __version__
from ..alarm import Role
from ..codebook import Codebook
from ..codebook.describe import describe
from ..config import FirewallConfig
from ..errors import DataError
from ..firewall import Firewall
from ..model.repository import sha256
from .data_loader import DataFile, Example, load_folder, sample
from .measures import Columns, curves, role_figures, source_figures
from .verdicts import Verdict, read_verdicts, write_verdicts

__all__ = ["EvaluateOptions", "Screened", "evaluate", "measure", "screen_folder", "screened_file"]

_LENGTHS = (32, 128, 512, 2048)  # tokens; latency is reported between these


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What to measure, and what beside the rows themselves."""

    data: Path | None = None
    """A folder of labelled rows to screen."""
    screened: Path | None = None
    """Rows that were screened before, in place of `data`."""
    limit: int = 0
    seed: int = 0
    rows: Path | None = None
    """Where to write the screened rows."""
    train: Path | None = None
    """The training folder, for `loso` and `baselines`."""
    cache: Path | None = None
    loso: bool = False
    robustness: bool = False
    robustness_rows: int = 250
    """Caught attacks, and harmless texts, of each role that each evasion is tried on."""
    baselines: bool = False
    peers: Path | None = None
    ablation: Path | None = None


@dataclass(frozen=True, slots=True)
class Screened:
    """Labelled texts, what was said of each in the same order, and the files they are from."""

    examples: Sequence[Example]
    verdicts: Sequence[Verdict]
    files: Sequence[DataFile]


def evaluate(config: FirewallConfig, options: EvaluateOptions) -> dict[str, Any]:
    """All the figures that the options ask for, ready for JSON.

    Raises `DataError` for rows that cannot be read, and what loading and
    screening raise.
    """
    # What can go wrong at once goes wrong before an hour of screening.
    ablation = _ablation(options.ablation) if options.ablation else []
    if options.baselines:
        from .baselines import require_scikit_learn

        require_scikit_learn()
    firewall = Firewall(config, progress=True)
    if options.screened:
        screened = screened_file(options.screened)
    elif options.data:
        screened = screen_folder(firewall, options.data, limit=options.limit, seed=options.seed)
    else:
        raise DataError("nothing to measure: give a folder of rows, or rows already screened")
    if options.rows:
        write_verdicts(options.rows, screened.examples, screened.verdicts)
    return {
        "detector": _detector(firewall.codebook, config),
        "limit": options.limit,
        "seed": options.seed,
        **measure(screened),
        **_comparisons(screened, config, options),
        "loso": _loso(firewall.codebook, config, options),
        "robustness": _robustness(firewall, screened, options) if options.robustness else [],
        "ablation": ablation,
    }


def _comparisons(
    screened: Screened, config: FirewallConfig, options: EvaluateOptions
) -> dict[str, Any]:
    """Baselines and peers on the same rows, and the peers that could not run."""
    from . import baselines

    found: list[baselines.Baseline] = []
    absent: list[dict[str, Any]] = []
    rows = screened.examples
    if options.baselines and options.train:
        train = baselines.training_texts(options.train)
        found.append(baselines.words(train, rows))
        found.append(baselines.last_token_anomaly(train, rows, config))
    if options.peers:
        ran, absent = baselines.peers(options.peers, rows)
        found += ran
    return {"baselines": [_baseline(b, rows) for b in found], "peers_absent": absent}


def _baseline(baseline: Any, examples: Sequence[Example]) -> dict[str, Any]:
    rows = columns(examples, baseline.verdicts)
    return {
        "name": baseline.name,
        "what": baseline.what,
        "roles": {role: role_figures(rows.of_role(role)) for role in get_args(Role)},
        "curves": {role: curves(rows.of_role(role)) for role in get_args(Role)},
        "sources": source_figures(rows),
    }


def _loso(codebook: Codebook, config: FirewallConfig, options: EvaluateOptions) -> dict[str, Any]:
    """Measured now if asked for, else as the codebook's compilation recorded it."""
    if options.loso and options.train:
        from .loso import leave_sources_out

        return leave_sources_out(options.train, config, options.cache)
    recorded: dict[str, Any] = codebook.provenance.get("held_out", {})
    return recorded


def _robustness(
    firewall: Firewall, screened: Screened, options: EvaluateOptions
) -> list[dict[str, Any]]:
    from .robustness import measure as evade

    attacks = [example for example in screened.examples if example.label == "attack"]
    benign = [example for example in screened.examples if example.label == "benign"]
    return evade(firewall, attacks, benign, seed=options.seed, limit=options.robustness_rows)


def _ablation(path: Path) -> list[dict[str, Any]]:
    """The rows that `training/ablation.py --json` wrote."""
    try:
        rows = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {"variant", "role"} <= row.keys() for row in rows
    ):
        raise DataError(
            f"{path}: needs a list of objects with `variant`, `role`, `auc`, `recall_at_0.01`"
        )
    return rows


def screen_folder(firewall: Firewall, folder: Path, *, limit: int = 0, seed: int = 0) -> Screened:
    """Screen every row of a folder, one after another.

    `limit` bounds the rows of each (source, label, role), chosen by `seed`; 0
    takes all. Raises `DataError` for rows that cannot be read.
    """
    examples, files = load_folder(folder)
    if limit:
        examples = sample(examples, limit, seed)
    firewall.preload()
    verdicts = [
        Verdict.of(firewall.screen(example.text, example.role))
        for example in tqdm(examples, desc="screening", unit="row")
    ]
    return Screened(examples, verdicts, files)


def screened_file(path: Path) -> Screened:
    """Rows that were screened before. Raises `DataError` for a bad row."""
    examples, verdicts = read_verdicts(path)
    return Screened(examples, verdicts, [DataFile(path.name, sha256(path), len(examples))])


def measure(screened: Screened) -> dict[str, Any]:
    """The figures, ready for JSON."""
    examples, verdicts = screened.examples, screened.verdicts
    rows = columns(examples, verdicts)
    return {
        "rows": len(examples),
        "roles": {role: role_figures(rows.of_role(role)) for role in get_args(Role)},
        "curves": {role: curves(rows.of_role(role)) for role in get_args(Role)},
        "sources": source_figures(rows),
        "spans": _localisation(examples, verdicts),
        "early_exit": _early_exit(examples, verdicts),
        "latency_ms": _latency(verdicts),
        "files": [asdict(file) for file in screened.files],
    }


def columns(examples: Sequence[Example], verdicts: Sequence[Verdict]) -> Columns:
    """Examples and verdicts as arrays."""
    return Columns.of(
        examples, [verdict.score for verdict in verdicts], [int(v.level) for v in verdicts]
    )


def _detector(codebook: Codebook, config: FirewallConfig) -> dict[str, Any]:
    """Which detector was measured, and on what machine."""
    facts = describe(codebook)
    return {
        **{key: facts[key] for key in ("model_id", "weights_sha256", "engine", "layers")},
        "thresholds": {
            role: asdict(config.thresholds.get(role) or codebook.thresholds[role])
            for role in get_args(Role)
        },
        "alknet_firewall": __version__,
        "threads": config.threads or "one a core, at most 4",
        "cpu": _cpu(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    if not names:
        return platform.processor() or platform.machine()
    return f"{len(names)} x {names[0]}"


def _localisation(examples: Sequence[Example], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Of the caught rows whose injected string is known, how many spans meet it."""
    known = [
        _meets(example.text.index(example.injection), len(example.injection), verdict)
        for example, verdict in zip(examples, verdicts, strict=True)
        if verdict.level and example.injection and example.injection in example.text
    ]
    return {"caught": len(known), "overlapping": sum(known)}


def _meets(start: int, length: int, verdict: Verdict) -> bool:
    return any(first < start + length and last > start for first, last in verdict.spans)


def _early_exit(examples: Sequence[Example], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """How many windows needed only the first layer, by role and label."""
    counts: dict[tuple[str, str], list[int]] = {}
    for example, verdict in zip(examples, verdicts, strict=True):
        count = counts.setdefault((example.role, example.label), [0, 0])
        count[0] += verdict.settled
        count[1] += verdict.windows
    return [
        {"role": role, "label": label, "settled": settled, "windows": windows}
        for (role, label), (settled, windows) in sorted(counts.items())
    ]


def _latency(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Milliseconds of one call, one after another; empty where no time was recorded."""
    timed = [(v.tokens, v.elapsed * 1000) for v in verdicts if v.elapsed is not None]
    if not timed:
        return {}
    tokens, elapsed = np.array(timed).T
    bounds = [0, *_LENGTHS, np.inf]
    lengths = [
        {"tokens_from": int(low) + 1, "tokens_to": None if np.isinf(high) else int(high)}
        | _times(tokens[chosen], elapsed[chosen])
        for low, high in pairwise(bounds)
        if (chosen := (tokens > low) & (tokens <= high)).any()
    ]
    return {**_times(tokens, elapsed), "lengths": lengths}


def _times(tokens: Any, elapsed: Any) -> dict[str, float]:
    return {
        "rows": len(tokens),
        "p50": float(np.percentile(elapsed, 50)),
        "p99": float(np.percentile(elapsed, 99)),
        "tokens_p50": float(np.percentile(tokens, 50)),
        "tokens_per_second": float(tokens.sum() / (elapsed.sum() / 1000)),
    }
