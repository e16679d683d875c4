"""Runs one other detector over rows; started by peers_detection.py in that detector's
own environment, so it imports nothing but the standard library and the detector.

    python benchmarks/peer_adapter.py NAME IN.jsonl OUT.jsonl

Each row gains `score` in [0, 1], `level` (CLEAR, or SUSPICIOUS where the detector
would flag the text as it ships) and `elapsed_ms`. Detectors that only say yes or no
have a score of 1 or 0.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module

Verdict = tuple[float, bool]
Judge = Callable[[str, str], Verdict]
"""(text, role) -> (score, flagged)."""


def promptbadger() -> Judge:
    scanner = import_module("promptbadger").Scanner(classifier=True)

    def judge(text: str, role: str) -> Verdict:
        found = scanner.scan_context(text) if role == "tool" else scanner.scan(text)
        return found.score / 100, found.verdict != "benign"

    return judge


def promptbadger_classifier() -> Judge:
    classifier = import_module("promptbadger.classifier").Classifier.load()

    def judge(text: str, role: str) -> Verdict:
        probability = classifier.probability(text)
        return probability, probability >= classifier.suspicious_p

    return judge


def prompt_guardrail() -> Judge:
    detect = import_module("guardify").detect

    def judge(text: str, role: str) -> Verdict:
        found = detect(text)
        flagged = found["label"] == "injection"
        return found["score"] if flagged else 1 - found["score"], flagged

    return judge


def aicordon() -> Judge:
    detector = import_module("aicordon.picket").load()

    def judge(text: str, role: str) -> Verdict:
        flagged = bool(detector.check(text).flagged)
        return float(flagged), flagged

    return judge


def safe_voice() -> Judge:
    module = import_module("safevoice")
    guard = module.Guard(module.SecurityConfig(voice_guard_enabled=False))
    count = iter(range(sys.maxsize))

    def judge(text: str, role: str) -> Verdict:
        # A session of its own for each text: strikes must not add up.
        blocked = bool(guard.check_user_turn(text, session_id=str(next(count))).blocked)
        return float(blocked), blocked

    return judge


def prismguard() -> Judge:
    checker = import_module("prismguard.runtime.factory").create_checker_rules_only()

    def judge(text: str, role: str) -> Verdict:
        found = checker.check(text)
        flagged = found.decision != "allow"
        return float(flagged) or min(float(found.fused_score), 0.99), flagged

    return judge


def toolwall_guard() -> Judge:
    detector = import_module("toolwall.detect").CompositeDetector(use_judge=False)
    threshold = import_module("toolwall").Policy().response_ipi_threshold

    def judge(text: str, role: str) -> Verdict:
        score = detector.score(text)[0]
        return score, score >= threshold

    return judge


def plumblint() -> Judge:
    scan = import_module("plumblint").scan

    def judge(text: str, role: str) -> Verdict:
        found = scan(text)
        return found.score, found.verdict == "injection"

    return judge


def sentinel_security() -> Judge:
    sanitise = import_module("sentinel_security").sanitise_content

    def judge(text: str, role: str) -> Verdict:
        found = sanitise(text)
        risk = float(found["risk_score"])
        return risk / (1 + risk), found["risk_level"] != "CLEAN"

    return judge


def last_layer() -> Judge:
    scan = import_module("last_layer").scan_prompt

    def judge(text: str, role: str) -> Verdict:
        found = scan(text)
        return found.score / (1 + found.score), not found.passed

    return judge


def main(name: str, source: str, out: str) -> None:
    judge = globals()[name.replace("-", "_")]()
    with open(source, encoding="utf-8") as rows, open(out, "w", encoding="utf-8") as results:
        for line in rows:
            row = json.loads(line)
            started = time.perf_counter()
            # Some print what they find; these texts belong in no log.
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                score, flagged = judge(row["text"], row["role"])
            row |= {
                "score": float(score),
                "level": "SUSPICIOUS" if flagged else "CLEAR",
                "spans": [],
                "elapsed_ms": (time.perf_counter() - started) * 1000,
            }
            results.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
