"""Other detectors' architectures with random weights, and ourselves: timed one text at a time.

    python peer_models.py build FOLDER MODEL
    python peer_models.py time FOLDER MODEL RUNTIME THREADS

peers.py runs this, in an environment with torch, transformers and ONNX Runtime for
the others. The sizes are those that each model's authors published. `time` reads
lines of `TOKENS SEED CALLS` and answers each with a line of JSON: the `seconds` of
the calls after a first that is not counted, the `tokens` of the text, and the
process's `peak` memory in bytes.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from measuring import peak_resident

OURS = "alknet-firewall"
RUNTIMES = ("onnx int8", "onnx fp32", "torch fp32", "torch bf16")
_FIRST_WORD = 5  # lower ids are special tokens
_PUT_IN = ["input_ids", "attention_mask"]

Timed = Callable[[int, int], tuple[float, int]]
"""Tokens and seed -> the seconds of one call, and the tokens it read."""


def _deberta(hidden: int, heads: int) -> Any:
    """DeBERTa-v3 of 12 layers; both sizes have four times the hidden size inside."""
    from transformers import DebertaV2Config

    return DebertaV2Config(
        vocab_size=128100,
        hidden_size=hidden,
        num_hidden_layers=12,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        layer_norm_eps=1e-7,
    )


def _modernbert() -> Any:
    from transformers import ModernBertConfig

    return ModernBertConfig()  # the defaults are those of ModernBERT-base


def _minilm() -> Any:
    from transformers import BertConfig

    return BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )


CONFIGS: dict[str, Callable[[], Any]] = {
    "DeBERTa-v3-base": lambda: _deberta(768, 12),
    "DeBERTa-v3-xsmall": lambda: _deberta(384, 6),
    "ModernBERT-base": _modernbert,
    "MiniLM-L6": _minilm,
}


def classifier(model: str) -> Any:
    """A sequence classifier of two classes, the same random weights each time."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)

    class Classifier(torch.nn.Module):  # type: ignore[misc]
        """Ids and mask in, logits out, as the export wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = AutoModelForSequenceClassification.from_config(CONFIGS[model]())

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.inner(input_ids=ids, attention_mask=mask).logits

    return Classifier().eval()


def build(folder: Path, model: str) -> None:
    """Write the model for ONNX Runtime, in fp32 and in int8, if that was not done before."""
    exact, small = (onnx_file(folder, model, runtime) for runtime in ("onnx fp32", "onnx int8"))
    if exact.exists() and small.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    partial = exact.with_suffix(".partial")
    _export(model, partial)
    _quantise(partial, small)
    partial.replace(exact)


def onnx_file(folder: Path, model: str, runtime: str) -> Path:
    return folder / f"{model}.{runtime.removeprefix('onnx ')}.onnx"


def _export(model: str, path: Path) -> None:
    """With any number of tokens; what it computes is compared with torch."""
    import numpy as np
    import torch

    network = classifier(model)
    dynamic = {name: {1: "tokens"} for name in _PUT_IN}
    # The newer exporter takes minutes for DeBERTa, and what it writes is no faster.
    torch.onnx.export(
        network,
        _tensors(77, 0),
        str(path),
        input_names=_PUT_IN,
        output_names=["logits"],
        dynamic_axes=dynamic,
        opset_version=17,
        dynamo=False,
    )
    call = _onnx(path, 1)
    for tokens in (16, 300):
        ids, mask = _tensors(tokens, 1)
        with torch.inference_mode():
            expected = network(ids, mask).numpy()
        np.testing.assert_allclose(call(ids.numpy()), expected, atol=1e-4)


def _quantise(source: Path, target: Path) -> None:
    """As ONNX Runtime advises for transformers: dynamic, weights by channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        source,
        target,
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gemm"],
    )


def _onnx(path: Path, threads: int) -> Callable[[Any], Any]:
    """Ids of shape `(1, tokens)` -> logits; all options but the threads by default."""
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda ids: session.run(None, dict(zip(_PUT_IN, (ids, np.ones_like(ids)), strict=True)))[
        0
    ]


def _torch(model: str, runtime: str, threads: int) -> Callable[[Any], Any]:
    import torch

    torch.set_num_threads(threads)
    network = classifier(model)
    if runtime == "torch bf16":
        network = network.to(torch.bfloat16)

    def call(ids: Any) -> Any:
        with torch.inference_mode():
            tensor = torch.from_numpy(ids)
            return network(tensor, torch.ones_like(tensor))

    return call


def _tensors(tokens: int, seed: int) -> tuple[Any, Any]:
    import torch

    ids = torch.from_numpy(_ids(tokens, seed))
    return ids, torch.ones_like(ids)


def _ids(tokens: int, seed: int) -> Any:
    """Ids of shape `(1, tokens)` that no other seed gives; in every vocabulary."""
    import numpy as np

    return np.random.default_rng(seed).integers(_FIRST_WORD, 30_000, (1, tokens), dtype=np.int64)


def peer(folder: Path, model: str, runtime: str, threads: int) -> Timed:
    """One of the others: from ids to logits, so without a tokenizer, in its favour."""
    if runtime.startswith("onnx"):
        call = _onnx(onnx_file(folder, model, runtime), threads)
    else:
        call = _torch(model, runtime, threads)

    def timed(tokens: int, seed: int) -> tuple[float, int]:
        ids = _ids(tokens, seed)
        started = time.perf_counter()
        call(ids)
        return time.perf_counter() - started, tokens

    return timed


def ours(threads: int) -> Timed:
    """`Firewall.screen`: from text to alarm."""
    from prose import text_of

    from alknet_firewall import Firewall, FirewallConfig

    firewall = Firewall(FirewallConfig(threads=threads))

    def timed(tokens: int, seed: int) -> tuple[float, int]:
        text = text_of(tokens, seed, firewall.count_tokens)
        started = time.perf_counter()
        alarm = firewall.screen(text)
        return time.perf_counter() - started, alarm.tokens

    return timed


def answer(timed: Timed) -> None:
    """Serve standard input until it ends."""
    for line in sys.stdin:
        tokens, seed, calls = map(int, line.split())
        seeds = Random(seed).sample(range(1 << 30), calls + 1)
        found = [timed(tokens, number) for number in seeds][1:]
        reply = {
            "seconds": [seconds for seconds, _ in found],
            "tokens": found[0][1],
            "peak": peak_resident(),
        }
        print(json.dumps(reply), flush=True)


def main() -> None:
    task, folder, model, *rest = sys.argv[1:]
    # The exporter's hints, and an old API's; failures are exceptions.
    warnings.simplefilter("ignore")
    if task == "build":
        build(Path(folder), model)
        return
    runtime, threads = rest[0], int(rest[1])
    answer(ours(threads) if model == OURS else peer(Path(folder), model, runtime, threads))


if __name__ == "__main__":
    main()
