"""What a codebook holds, for a person or a program."""

from __future__ import annotations

from typing import Any

from ..alarm import Role
from .codebook import Codebook

__all__ = ["describe", "summary"]

_STRONGEST = 5


def describe(codebook: Codebook) -> dict[str, Any]:
    """A JSON-ready dict: binding, sizes, thresholds, strongest directions, provenance."""
    identity = codebook.identity
    return {
        "model_id": identity.model_id,
        "model_revision": identity.revision,
        "weights_sha256": identity.weights_sha256,
        "engine": identity.engine,
        "layers": list(codebook.layers),
        "n_dimensions": codebook.basis.shape[1],
        "hidden_dim": codebook.basis.shape[2],
        "windows": {
            name: getattr(codebook.windows, name) for name in ("tokens", "overlap", "block", "run")
        },
        "roles": {role: _role(codebook, role) for role in codebook.regions},
        "provenance": dict(codebook.provenance),
    }


def _role(codebook: Codebook, role: Role) -> dict[str, Any]:
    profile = codebook.regions[role].profile
    limits = codebook.thresholds[role]
    return {
        "suspicious": limits.suspicious,
        "dangerous": limits.dangerous,
        "strongest_directions": [
            {
                "layer": codebook.layers[row],
                "dimension": column,
                "cohen_d": float(profile.cohen_d[row, column]),
                "silhouette": float(profile.silhouette[row, column]),
            }
            for row, column in profile.strongest(_STRONGEST)
        ],
    }


def summary(codebook: Codebook) -> str:
    """The description as text for a terminal."""
    facts = describe(codebook)
    windows, provenance = facts["windows"], facts["provenance"]
    lines = [
        f"model      {facts['model_id']} at {facts['model_revision']}",
        f"weights    sha256 {facts['weights_sha256']}",
        f"engine     {facts['engine']}",
        f"layers     {', '.join(map(str, facts['layers']))}",
        f"directions {facts['n_dimensions']} in each layer",
        f"windows    {windows['tokens']} tokens, {windows['overlap']} shared, "
        f"scored over {windows['block'] * windows['run']} tokens every {windows['block']}",
    ]
    for role, figures in facts["roles"].items():
        lines.append(
            f"{role:<10} SUSPICIOUS from {figures['suspicious']:.4f}, "
            f"DANGEROUS from {figures['dangerous']:.4f}"
        )
        lines += [
            f"           layer {d['layer']} direction {d['dimension']}: d {d['cohen_d']:+.2f}, "
            f"silhouette {d['silhouette']:+.2f}"
            for d in figures["strongest_directions"]
        ]
    lines += _sources(provenance)
    return "\n".join(lines)


def _sources(provenance: dict[str, Any]) -> list[str]:
    files = provenance.get("files", [])
    lines = [
        f"compiled from {len(files)} files and {provenance.get('composed', 0)} composed texts:"
    ]
    lines += [
        f"  {file['name']:<44} {file['rows_used']:>5} of {file['rows']:>5} rows  "
        f"{file['sha256'][:12]}  {file['licence']}"
        for file in files
    ]
    return lines
