"""Calibration on a deployment's own traffic: the arithmetic, and the two commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import beta

from alknet_firewall import Codebook, Firewall, FirewallConfig
from alknet_firewall.cli import main
from alknet_firewall.training.calibrate import interval, needed_rows, threshold_for

scores = st.lists(st.integers(0, 40).map(lambda n: n / 40), min_size=1, max_size=300).map(np.array)
rates = st.floats(0.001, 0.5)


@given(scores, rates)
def test_no_more_than_the_rate_reaches_the_threshold(
    found: NDArray[np.float64], rate: float
) -> None:
    threshold = threshold_for(found, rate)
    allowed = rate * len(found) + 1e-6
    assert (found >= threshold).sum() <= allowed
    lower = found[found < threshold]
    if len(lower):  # the next lower score would already let too many through
        assert (found >= lower.max()).sum() > allowed - 1e-6 or (found == lower.max()).all()


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_interval_is_that_of_clopper_and_pearson(flagged: int, more: int) -> None:
    rows = flagged + more
    low, high = interval(flagged, rows)
    assert low == pytest.approx(beta.ppf(0.025, flagged, more + 1) if flagged else 0, abs=1e-9)
    assert high == pytest.approx(beta.ppf(0.975, flagged + 1, more), abs=1e-9)
    assert low <= flagged / rows <= high


def test_the_rule_of_three() -> None:
    assert [needed_rows(rate) for rate in (0.1, 0.01, 0.001, 0.02)] == [30, 300, 3000, 150]


@given(st.integers(0, 10_000))
def test_new_traffic_keeps_the_rate_on_average(seed: int) -> None:
    """A new text reaches the k-th highest of n scores with a chance of k / (n + 1)."""
    rng = np.random.default_rng(seed)
    rates_of_new = [1 - threshold_for(rng.random(300), 0.01) for _ in range(200)]
    assert np.mean(rates_of_new) == pytest.approx(3 / 301, abs=0.002)


NORMAL = [
    f"Invoice {n} for {what} was paid on {day}. {thanks}"
    for n, (what, day, thanks) in enumerate(
        (what, day, thanks)
        for what in ("two boats", "the garden", "new keys", "a roof", "snow tyres")
        for day in ("Monday", "Friday", "the third of May", "time")
        for thanks in ("Thank you.", "The receipt is attached.")
    )
]


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 normal tool texts, in both shapes, one of them twice, and a user's text."""
    rows: list[object] = [
        {"text": text} if n % 2 else {"text": text, "role": "tool", "id": n}
        for n, text in enumerate(NORMAL[:-1])
    ]
    rows += [NORMAL[-1], {"text": NORMAL[0]}, {"text": "Hello!", "role": "user"}]
    path = tmp_path_factory.mktemp("traffic") / "traffic.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def calibrated(traffic: Path, out: Path, *more: object) -> Result:
    return run("calibrate", "--normal", traffic, "--role", "tool", "--out", out, *more)


@pytest.fixture(scope="module")
def written(traffic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "codebook"
    result = calibrated(traffic, out, "--fpr", 0.1)
    assert result.exit_code == 0, result.output
    assert "40 distinct texts of 41 rows" in result.stdout
    return out


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


def test_the_calibrated_codebook_flags_the_share_that_was_asked_for(written: Path) -> None:
    firewall = Firewall(FirewallConfig(codebook=str(written)))
    flagged = sum(firewall.screen(text, "tool").level > 0 for text in NORMAL)
    assert flagged == 4


def test_only_the_thresholds_of_the_role_change(written: Path) -> None:
    before, after = Codebook.bundled(), Codebook.load(written)
    assert after.thresholds["user"] == before.thresholds["user"]
    assert after.thresholds["tool"] != before.thresholds["tool"]
    assert config_of(written)["files"] == config_of(Path(bundled()))["files"]


def bundled() -> Path:
    import alknet_firewall

    return Path(alknet_firewall.__file__).parent / "data" / "codebook"


def test_it_is_recorded_where_the_thresholds_are_from(written: Path, traffic: Path) -> None:
    entry = config_of(written)["provenance"]["calibration"]["tool"]
    assert entry["file"] == "traffic.jsonl"
    assert (entry["rows"], entry["distinct_texts"]) == (41, 40)
    assert len(entry["sha256"]) == 64
    assert entry["options"]["suspicious_rate"] == 0.1
    assert entry["after"] == config_of(written)["thresholds"]["tool"]
    assert str(traffic.parent) not in (written / "config.json").read_text()


def test_calibrating_again_gives_the_same_bytes(
    traffic: Path, written: Path, tmp_path: Path
) -> None:
    assert calibrated(traffic, tmp_path, "--fpr", 0.1).exit_code == 0
    for file in written.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_a_calibrated_codebook_can_be_calibrated_for_the_other_role(
    traffic: Path, written: Path, tmp_path: Path
) -> None:
    users = tmp_path / "users.jsonl"
    users.write_text("\n".join(json.dumps(f"What does {text}") for text in NORMAL))
    options = ["--normal", users, "--fpr", 0.1, "--codebook", written, "--out", tmp_path / "both"]
    assert run("calibrate", "--role", "user", *options).exit_code == 0
    both = config_of(tmp_path / "both")
    assert set(both["provenance"]["calibration"]) == {"user", "tool"}
    assert both["thresholds"]["tool"] == config_of(written)["thresholds"]["tool"]


def test_dangerous_stays_unless_a_rate_is_given(
    traffic: Path, written: Path, tmp_path: Path
) -> None:
    before = Codebook.bundled().thresholds["tool"]
    kept = Codebook.load(written).thresholds["tool"]
    assert kept.dangerous == max(before.dangerous, kept.suspicious)
    assert calibrated(traffic, tmp_path, "--fpr", 0.2, "--dangerous-fpr", 0.1).exit_code == 0
    set_too = Codebook.load(tmp_path).thresholds["tool"]
    assert set_too.suspicious < set_too.dangerous == kept.suspicious


def test_regions_refits_the_splines_and_no_classifier(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps(f"{n}. {text}") for n in range(5) for text in NORMAL))
    out = tmp_path / "codebook"
    result = calibrated(path, out, "--fpr", 0.1, "--regions")
    assert result.exit_code == 0, result.output
    before, after = config_of(bundled())["files"], config_of(out)["files"]
    assert before["splines.json"] != after["splines.json"]
    assert before["regions.safetensors"] == after["regions.safetensors"]
    assert before["basis.safetensors"] == after["basis.safetensors"]
    far = json.loads(run("inspect", "--normal", path, "--role", "tool", "--json").stdout)
    near = json.loads(run("inspect", out, "--normal", path, "--role", "tool", "--json").stdout)
    assert near["mean_ks"] < 0.05 < far["mean_ks"]
    assert near["beyond_chance"] == 0 < far["beyond_chance"]


def test_traffic_that_is_like_no_normal_text_is_not_anomalous_where_it_is_normal(
    tmp_path: Path,
) -> None:
    path, out = tmp_path / "strange.jsonl", tmp_path / "codebook"
    strange = [f"{'z ' * 64}{n}" for n in range(200)]
    path.write_text("\n".join(map(json.dumps, strange)))
    assert Firewall().screen(strange[0], "tool").anomalous
    assert calibrated(path, out, "--fpr", 0.1, "--regions").exit_code == 0
    assert not Firewall(codebook=Codebook.load(out)).screen(strange[0], "tool").anomalous


def test_inspect_shows_the_drift_and_what_is_flagged(traffic: Path, written: Path) -> None:
    result = run("inspect", written, "--normal", traffic, "--role", "tool")
    assert result.exit_code == 0
    assert "SUSPICIOUS 4 of 40 texts, 10.00%" in result.stdout
    assert "drift" in result.stdout
    assert "Wasserstein" in result.stdout


@pytest.mark.parametrize(
    ("content", "options", "problem"),
    [
        ('"a"\n"b"', ["--fpr", 0.01], "holds 2 distinct texts and --fpr 0.01 needs 300"),
        ("ROWS", ["--fpr", 0.1, "--dangerous-fpr", 0.01], "--dangerous-fpr 0.01 needs 300"),
        ("ROWS", ["--fpr", 0.1, "--dangerous-fpr", 0.2], "DANGEROUS must be the rarer"),
        ("ROWS", ["--fpr", 1.5], "--fpr must be between 0 and 1"),
        ("ROWS", ["--fpr", 0], "--fpr must be between 0 and 1"),
        ("ROWS", ["--fpr", 0.1, "--regions"], "--regions needs 200"),
        ("ROWS\n{broken", ["--fpr", 0.1], "line 42: needs"),
        ("ROWS\n[1]", ["--fpr", 0.1], "line 42: needs"),
        ('ROWS\n{"text": "x", "label": "attack"}', ["--fpr", 0.1], "holds no attacks"),
        ('{"text": "x", "role": "user"}', ["--fpr", 0.1], "holds no texts of role 'tool'"),
        ("", ["--fpr", 0.1], "holds no texts"),
    ],
)
def test_a_wrong_call_is_one_clear_line(
    content: str, options: list[object], problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "traffic.jsonl"
    rows = "\n".join(json.dumps(f"{text} {n}") for n in range(2) for text in NORMAL)
    path.write_text(content.replace("ROWS", "\n".join(rows.split("\n")[:41])))
    result = calibrated(path, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert problem in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_absent_or_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("binary", "absent"):
        result = calibrated(tmp_path / name, tmp_path / "out", "--fpr", 0.1)
        assert result.exit_code == 2
        assert name in result.stderr
