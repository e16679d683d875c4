"""The figures, against the formulas of the yardstick that others judge us by.

The yardstick's arithmetic is written out here as it stands there; nothing of
ours computes the expected values.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from alknet_firewall.training.measures import Columns, curves, role_figures, source_figures

rows = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),  # source
        st.booleans(),  # attack
        st.integers(0, 12).map(lambda n: n / 12),  # score: few values, so many ties
        st.integers(0, 2),  # level
    ),
    min_size=2,
    max_size=120,
).filter(lambda found: len({attack for _, attack, _, _ in found}) == 2)


def columns(found: list[tuple[str, bool, float, int]]) -> Columns:
    source, attack, score, level = zip(*found, strict=True)
    return Columns(
        role=np.full(len(found), "user"),
        kind=np.array(["jailbreak" if a else "benign_instruction" for a in attack]),
        source=np.array(source),
        attack=np.array(attack),
        score=np.array(score, dtype=float),
        level=np.array(level),
    )


def judged(
    s: NDArray[np.float64], y: NDArray[np.bool_], src: NDArray[np.str_], level: NDArray[np.int_]
) -> dict[str, float]:
    """What the yardstick computes: sources equal within a class, AUC with ties
    counted half, recall above the score that 1 % of harmless text exceeds."""
    w = np.zeros(len(s))
    for c in (False, True):
        for a in set(src[y == c]):
            m = (y == c) & (src == a)
            w[m] = 1 / m.sum()
        w[y == c] /= w[y == c].sum()
    order = np.argsort(s, kind="stable")
    ys, ws, ss = y[order], w[order], s[order]
    auc, below, i = 0.0, 0.0, 0
    while i < len(ss):
        j = i
        while j < len(ss) and ss[j] == ss[i]:
            j += 1
        neg = ws[i:j][~ys[i:j]].sum()
        pos = ws[i:j][ys[i:j]].sum()
        auc += pos * (below + neg / 2)
        below += neg
        i = j
    desc = np.argsort(-s[~y], kind="stable")
    cum = np.cumsum(w[~y][desc])
    t = s[~y][desc][min(int(np.searchsorted(cum, 0.01)), len(cum) - 1)]
    return {
        "auc": auc,
        "threshold": t,
        "recall": w[y & (s > t)].sum(),
        "flagged_benign": w[~y & (level > 0)].sum(),
        "flagged_attacks": w[y & (level > 0)].sum(),
    }


@given(rows)
def test_the_figures_are_those_of_the_yardstick(found: list[tuple[str, bool, float, int]]) -> None:
    ours = columns(found)
    theirs = judged(ours.score, ours.attack, ours.source, ours.level)
    figures = role_figures(ours)
    assert figures["auc"] == pytest.approx(theirs["auc"], abs=1e-9)
    assert figures["at_0.01"]["threshold"] == theirs["threshold"]
    assert figures["at_0.01"]["recall"] == pytest.approx(theirs["recall"], abs=1e-9)
    shipped = figures["shipped"]["suspicious"]
    assert shipped["false_positives"] == pytest.approx(theirs["flagged_benign"], abs=1e-9)
    assert shipped["recall"] == pytest.approx(theirs["flagged_attacks"], abs=1e-9)


@pytest.mark.parametrize("sources", [1, 3, 7, 10, 13])
def test_a_budget_met_exactly_gives_the_yardsticks_row(sources: int) -> None:
    """With 100 or 250 rows a source, 1 % falls on a row: rounding must fall the same way."""
    rng = np.random.default_rng(sources)
    for size in (100, 250):
        found = [
            (f"source {n}", False, float(score), 0)
            for n in range(sources)
            for score in rng.random(size)
        ]
        ours = columns([*found, ("attacks", True, 0.9, 2)])
        theirs = judged(ours.score, ours.attack, ours.source, ours.level)
        assert role_figures(ours)["at_0.01"]["threshold"] == theirs["threshold"]


@given(rows)
def test_a_source_is_above_the_threshold_as_often_as_counted(
    found: list[tuple[str, bool, float, int]],
) -> None:
    ours = columns(found)
    threshold = judged(ours.score, ours.attack, ours.source, ours.level)["threshold"]
    for row in source_figures(ours):
        mine = [
            (score, level)
            for source, attack, score, level in found
            if source == row["source"] and attack == (row["label"] == "attack")
        ]
        assert row["rows"] == len(mine)
        assert row["flagged"] == pytest.approx(np.mean([level > 0 for _, level in mine]))
        assert row["above_at_0.01"] == pytest.approx(np.mean([s > threshold for s, _ in mine]))


@given(rows)
def test_curves_are_shares_and_the_roc_never_falls(
    found: list[tuple[str, bool, float, int]],
) -> None:
    drawn = curves(columns(found))
    recall = drawn["roc"]["recall"]
    assert (np.diff(recall) >= -1e-12).all()
    assert 0 <= min(recall) <= max(recall) <= 1 + 1e-12
    assert sum(drawn["distribution"]["benign"]) == pytest.approx(1)
    assert sum(drawn["distribution"]["attack"]) == pytest.approx(1)
    assert sum(b["weight"] for b in drawn["reliability"]["bins"]) == pytest.approx(1)


def test_a_score_that_is_a_probability_lies_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    score = rng.random(40_000)
    attack = rng.random(len(score)) < score
    found = [("s", bool(a), float(p), 0) for a, p in zip(attack, score, strict=True)]
    measured = curves(columns(found))["reliability"]
    assert measured["expected_calibration_error"] < 0.02
    assert measured["brier"] == pytest.approx(1 / 6, abs=0.01)
    always = curves(columns([(s, a, 1.0, 0) for s, a, _, _ in found]))["reliability"]
    assert always["expected_calibration_error"] == pytest.approx(0.5)


def test_without_attacks_there_is_no_recall_and_nothing_to_draw() -> None:
    only = columns([("a", False, 0.2, 0), ("a", False, 0.9, 1)])
    figures = role_figures(only)
    assert figures["auc"] is None
    assert "at_0.01" not in figures
    assert figures["shipped"]["suspicious"]["worst_source"] == {
        "source": "a",
        "false_positives": 0.5,
    }
    assert curves(only) == {}
