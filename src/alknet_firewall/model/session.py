"""ONNX Runtime, set up the same for everything that runs on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["open_session"]


def open_session(graph: Path | bytes, threads: int) -> ort.InferenceSession:
    """A session on the CPU, of a file or of a graph in memory."""
    # It would write an identifier of the machine below the user's home, for telemetry.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # Imported here: it takes a quarter of a second.
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin while they wait double the time of an inference as soon
    # as anything else runs on the same cores, such as the proxy or numpy.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
