"""Runs the files that the documentation shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples"
PAGES = FOLDER.parent / "docs" / "integrations"


def output_of(name: str) -> str:
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / name)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def is_shown(page: str, said: str) -> bool:
    """Whether a page shows this output, with whatever figures."""
    shown = re.findall(r"^```text\n(.*?)^```", (PAGES / page).read_text(), re.MULTILINE | re.DOTALL)
    return any(_without_figures(said) == _without_figures(text) for text in shown)


def _without_figures(text: str) -> str:
    return re.sub(r"\d+", "0", text.strip())
