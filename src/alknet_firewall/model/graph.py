"""A truncated Llama as an ONNX graph, built straight from its tensors.

Only the blocks up to the last wanted layer are built, cut into one graph from each
wanted layer to the next, so nothing is computed that nobody reads. ONNX Runtime's
fused operators (domain `com.microsoft`) do the work: `GroupQueryAttention` with the
rotary embedding inside, `SkipSimplifiedLayerNormalization` for residual plus RMS
norm, and `DynamicQuantizeMatMul` for int8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..config import Precision

__all__ = ["LlamaShape", "build_graph"]

Tensors = Mapping[str, NDArray[np.float32]]

_CONTRIB = "com.microsoft"


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The numbers of a Hugging Face Llama config that the graph depends on."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float
    norm_eps: float
    max_positions: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LlamaShape:
        return cls(
            hidden=config["hidden_size"],
            intermediate=config["intermediate_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["head_dim"],
            rope_theta=config["rope_theta"],
            norm_eps=config["rms_norm_eps"],
            max_positions=config["max_position_embeddings"],
        )


@dataclass
class _Graph:
    """Nodes and constants collected so far."""

    precision: Precision
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def constant(self, name: str, array: NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, **attributes))
        return outputs[0]

    def matmul(self, name: str, x: str, weight: NDArray[np.float32]) -> str:
        """`x @ weight.T`; `weight` is `(out, in)` as PyTorch stores it."""
        if self.precision == "fp32":
            return self.node("MatMul", [x, self.constant(f"{name}.w", weight.T)], [name])
        quantized, scale = quantize_columns(weight.T)
        inputs = [x, self.constant(f"{name}.w", quantized), self.constant(f"{name}.s", scale)]
        return self.node("DynamicQuantizeMatMul", inputs, [name], domain=_CONTRIB)

    def matmul_by_row(self, name: str, x: str, weight: NDArray[np.float32]) -> str:
        """The same, each row scaled to a largest magnitude of 1 first.

        `DynamicQuantizeMatMul` has one scale for all of `x`. Where a few
        tokens are hundreds of times larger than the rest (attention sinks, in
        the MLP's inner activations), the rest would be rounded away.
        """
        if self.precision == "fp32":
            return self.matmul(name, x, weight)
        self.node("Abs", [x], [f"{name}.abs"])
        axis = self.constant(f"{name}.axis", np.array([-1], dtype=np.int64))
        self.node("ReduceMax", [f"{name}.abs", axis], [f"{name}.max"], keepdims=1)
        tiny = self.constant(f"{name}.tiny", np.array(1e-20, dtype=np.float32))
        largest = self.node("Max", [f"{name}.max", tiny], [f"{name}.largest"])
        unit = self.node("Div", [x, largest], [f"{name}.unit"])
        return self.node("Mul", [self.matmul(f"{name}.scaled", unit, weight), largest], [name])


def build_graph(
    tensors: Tensors,
    shape: LlamaShape,
    blocks: range,
    precision: Precision,
    *,
    embedding: bool = True,
) -> ModelProto:
    """The graph from the residual stream before some blocks to that after them.

    Input and output are float32 `(1, tokens, hidden)`, named `before` and `after`;
    with the `embedding` in it, the graph reads `input_ids` instead (int64, `(1,
    tokens)`). Extra inputs: `last` (int32, tokens -
    1, shape (1,)) and `total` (int32 scalar, tokens).
    """
    graph = _Graph(precision)
    _rotary_tables(graph, shape)
    residual, delta = _embed(graph, tensors) if embedding else "before", ""
    for layer in blocks:
        residual, delta = _block(graph, tensors, shape, layer, residual, delta)
    graph.node("Add" if delta else "Identity", [residual, delta][: 1 + bool(delta)], ["after"])
    return _model(graph, shape, embedding)


def quantize_columns(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 per output column: `weight ~ quantized * scale`.

    `weight` is `(in, out)`; a column of zeros, or of numbers so small that
    their 127th part is none, gets scale 1.
    """
    largest = np.abs(weight).max(axis=0)
    scale = np.where(largest > 1e-30, largest / 127, 1).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


def _rotary_tables(graph: _Graph, shape: LlamaShape) -> None:
    # arXiv:2104.09864: pair i of a head turns by position * theta^(-2i/d).
    frequencies = shape.rope_theta ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim)
    angles = np.outer(np.arange(shape.max_positions), frequencies)
    graph.constant("cos", np.cos(angles).astype(np.float32))
    graph.constant("sin", np.sin(angles).astype(np.float32))


def _embed(graph: _Graph, tensors: Tensors) -> str:
    table = tensors["model.embed_tokens.weight"]
    if graph.precision == "fp32":
        return graph.node("Gather", [graph.constant("embed.w", table), "input_ids"], ["embed"])
    rows, scale = quantize_columns(table.T)
    graph.constant("embed.w", rows.T)
    graph.constant("embed.s", scale[:, None])
    graph.node("Gather", ["embed.w", "input_ids"], ["embed.rows"])
    graph.node("Cast", ["embed.rows"], ["embed.float"], to=TensorProto.FLOAT)
    graph.node("Gather", ["embed.s", "input_ids"], ["embed.scale"])
    return graph.node("Mul", ["embed.float", "embed.scale"], ["embed"])


def _block(
    graph: _Graph, tensors: Tensors, shape: LlamaShape, layer: int, residual: str, delta: str
) -> tuple[str, str]:
    """One transformer block.

    Takes the residual stream as a sum still to be done (`residual + delta`),
    because the fused norm does that sum, and returns it so.
    """
    prefix = f"model.layers.{layer}."
    gain = tensors[prefix + "input_layernorm.weight"]
    residual, normed = _norm(graph, shape, f"{layer}.in", residual, delta, gain)
    delta = _attention(graph, tensors, shape, layer, normed)
    gain = tensors[prefix + "post_attention_layernorm.weight"]
    residual, normed = _norm(graph, shape, f"{layer}.mid", residual, delta, gain)
    return residual, _mlp(graph, tensors, shape, layer, normed)


def _norm(
    graph: _Graph,
    shape: LlamaShape,
    name: str,
    residual: str,
    delta: str,
    weight: NDArray[np.float32],
) -> tuple[str, str]:
    """RMS norm of `residual + delta`; returns (the sum, the normed)."""
    gain = graph.constant(f"{name}.norm.w", weight)
    normed, summed = f"{name}.normed", f"{name}.residual"
    if not delta:
        graph.node(
            "SimplifiedLayerNormalization",
            [residual, gain],
            [normed],
            epsilon=shape.norm_eps,
            axis=-1,
        )
        return residual, normed
    graph.node(
        "SkipSimplifiedLayerNormalization",
        [delta, residual, gain],
        [normed, "", "", summed],
        domain=_CONTRIB,
        epsilon=shape.norm_eps,
    )
    return summed, normed


def _attention(graph: _Graph, tensors: Tensors, shape: LlamaShape, layer: int, normed: str) -> str:
    prefix = f"model.layers.{layer}.self_attn."
    packed = np.concatenate([tensors[f"{prefix}{part}_proj.weight"] for part in "qkv"])
    qkv = graph.matmul(f"{layer}.qkv", normed, packed)
    attended = graph.node(
        "GroupQueryAttention",
        [qkv, "", "", "", "", "last", "total", "cos", "sin"],
        [f"{layer}.attended", f"{layer}.keys", f"{layer}.values"],
        domain=_CONTRIB,
        num_heads=shape.heads,
        kv_num_heads=shape.kv_heads,
        do_rotary=1,
        scale=shape.head_dim**-0.5,
    )
    return graph.matmul(f"{layer}.attention", attended, tensors[f"{prefix}o_proj.weight"])


def _mlp(graph: _Graph, tensors: Tensors, shape: LlamaShape, layer: int, normed: str) -> str:
    prefix = f"model.layers.{layer}.mlp."
    packed = np.concatenate([tensors[f"{prefix}{part}_proj.weight"] for part in ("gate", "up")])
    both = graph.matmul(f"{layer}.gate_up", normed, packed)
    graph.node("Split", [both], [f"{layer}.gate", f"{layer}.up"], axis=-1, num_outputs=2)
    # QuickGelu is x * sigmoid(alpha * x): SiLU when alpha is 1.
    graph.node("QuickGelu", [f"{layer}.gate"], [f"{layer}.silu"], domain=_CONTRIB, alpha=1.0)
    gated = graph.node("Mul", [f"{layer}.silu", f"{layer}.up"], [f"{layer}.gated"])
    return graph.matmul_by_row(f"{layer}.mlp", gated, tensors[f"{prefix}down_proj.weight"])


def _model(graph: _Graph, shape: LlamaShape, embedding: bool) -> ModelProto:
    stream: list[str | int | None] = [1, "tokens", shape.hidden]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, "tokens"])
        if embedding
        else helper.make_tensor_value_info("before", TensorProto.FLOAT, stream),
        helper.make_tensor_value_info("last", TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total", TensorProto.INT32, []),
    ]
    outputs = [helper.make_tensor_value_info("after", TensorProto.FLOAT, stream)]
    proto = helper.make_graph(graph.nodes, "truncated_llama", inputs, outputs, graph.constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(_CONTRIB, 1)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=9)
