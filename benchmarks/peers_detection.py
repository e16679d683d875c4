"""What other open detectors find, on the same rows as ours.

    uv run alknet-firewall evaluate --data DIR --limit 250 --rows rows.jsonl
    uv run benchmarks/peers_detection.py --rows rows.jsonl --out peers/
    uv run alknet-firewall evaluate --screened rows.jsonl --peers peers/ --report out.html

Each detector is installed at a pinned version into an environment of its own,
thrown away afterwards, and judges every row as it ships, offline. One that
cannot be installed or run is listed with the reason. Third-party code runs here
on texts that may be hostile: use a machine that holds nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

ADAPTER = Path(__file__).with_name("peer_adapter.py")
PYTHON = "3.11"
LIMIT = 1800  # seconds for one detector, installation and all rows


@dataclass(frozen=True)
class Peer:
    """A detector: its distribution and version, and what it needs beside them."""

    name: str
    version: str
    what: str
    licence: str
    distribution: str = ""
    also: tuple[str, ...] = field(default=())

    @property
    def requirements(self) -> list[str]:
        return [f"{self.distribution or self.name}=={self.version}", *self.also]


PEERS = [
    Peer("promptbadger", "0.3.1", "rules and a classifier on words", "MIT"),
    Peer(
        "promptbadger-classifier",
        "0.3.1",
        "its classifier on words alone",
        "MIT",
        distribution="promptbadger",
    ),
    Peer(
        "prompt-guardrail",
        "1.0.1",
        "a classifier on words",
        "Apache-2.0",
        also=("scikit-learn==1.7.2",),  # what its model was saved with
    ),
    Peer("aicordon", "1.4.0", "rules (Picket)", "Apache-2.0"),
    Peer("safe-voice", "0.1.0", "rules", "Apache-2.0"),
    Peer("prismguard", "0.1.10", "rules alone", "Apache-2.0"),
    Peer("toolwall-guard", "0.4.0", "rules alone", "Apache-2.0"),
    Peer("plumblint", "0.1.2", "rules", "non-commercial"),
    Peer("sentinel-security", "0.9.0", "rules", "proprietary"),
    Peer(
        "last-layer",
        "0.1.33",
        "a closed library",
        "MIT",
        also=("setuptools<81",),  # it imports pkg_resources
    ),
]


def judged(peer: Peer, rows: Path, out: Path) -> dict[str, object]:
    """Run one detector over the rows; its entry for `peers.json`."""
    path = out / f"{peer.name}.jsonl"
    needs = [argument for name in peer.requirements for argument in ("--with", name)]
    command = ["uv", "run", "--isolated", "--no-project", "--python", PYTHON, *needs, "python"]
    with tempfile.TemporaryDirectory() as elsewhere:  # nothing of ours to import by accident
        command += ["-W", "ignore", str(ADAPTER), peer.name, str(rows), str(path)]
        problem = _run(command, elsewhere)
    entry = asdict(peer) | {"problem": problem}
    return entry if problem else entry | {"ms": _median_ms(path)}


def _run(command: list[str], folder: str) -> str | None:
    """Why it failed, in one line, or None."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **offline},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {LIMIT} seconds"
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:200]


def _median_ms(path: Path) -> float:
    with open(path, encoding="utf-8") as rows:
        return float(statistics.median(json.loads(row)["elapsed_ms"] for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[peer.name for peer in PEERS])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    entries = []
    for peer in PEERS:
        if arguments.only and peer.name not in arguments.only:
            continue
        entry = judged(peer, arguments.rows.resolve(), arguments.out.resolve())
        entries.append(entry)
        said = entry["problem"] or f"{entry['ms']:.1f} ms a text"
        print(f"{peer.name} {peer.version}: {said}", flush=True)
    index = arguments.out / "peers.json"
    index.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
