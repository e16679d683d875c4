"""Measures the activations that int8 scales are smoothed by.

    uv run training/smoothing.py --data DIR [--out FILE]

Runs a few texts of every file through the float32 model and keeps the largest
magnitude of each column that a quantised product reads. The packaged file is
the result on the training texts.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

from alknet_firewall.model import smoothing
from alknet_firewall.model.embedded import EmbeddedModel
from alknet_firewall.model.graph import LlamaShape, build_graph
from alknet_firewall.model.weights import SMOOTHING
from alknet_firewall.training.data_loader import load_folder, sample

LAYERS = 8
TOKENS = 256
ROWS = 3  # of each source, label and role

# Tensors of the graph -> what `smoothing.smoothed` calls them.
PARTS = {"in.normed": "input_layernorm", "mid.normed": "post_attention_layernorm"}
PARTS["gated"] = "mlp.up_proj"


def session(folder: Path) -> ort.InferenceSession:
    """The model with the inputs of its products as outputs."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    tensors = load_file(folder / "model.safetensors")
    proto = build_graph(tensors, LlamaShape.from_config(config), range(LAYERS), "fp32")
    del proto.graph.output[:]
    for layer in range(LAYERS):
        for part in PARTS:
            info = helper.make_tensor_value_info(f"{layer}.{part}", TensorProto.FLOAT, None)
            proto.graph.output.append(info)
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def largest(data: Path) -> dict[str, NDArray[np.float32]]:
    """The largest magnitudes over the sampled texts; the BOS position is left out."""
    model = EmbeddedModel([LAYERS], precision="fp32")
    engine = session(model.prepare())
    names = [output.name for output in engine.get_outputs()]
    found: dict[str, NDArray[np.float32]] = {}
    for example in sample(load_folder(data)[0], ROWS, 0):
        ids = [model.bos_id, *model.encode(example.text).ids[:TOKENS]]
        inputs = {
            "input_ids": np.array([ids]),
            "last": np.array([len(ids) - 1], np.int32),
            "total": np.array(len(ids), np.int32),
        }
        for name, values in zip(names, engine.run(None, inputs), strict=True):
            layer, _, part = name.partition(".")
            here = np.abs(values[0, 1:]).max(axis=0, initial=0)
            key = f"{layer}.{PARTS[part]}"
            found[key] = np.maximum(found.get(key, np.float32(0)), here)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(smoothing.__file__).parent / SMOOTHING)
    arguments = parser.parse_args()
    save_file(dict(sorted(largest(arguments.data).items())), arguments.out)


if __name__ == "__main__":
    main()
