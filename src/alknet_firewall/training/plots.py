"""The report's plots, as SVG that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["distribution", "reliability", "roc"]

# Drawn in colours that no plot needs; in the SVG each becomes a CSS variable,
# so that one file serves light and dark pages.
_INK, _MUTED, _GRID, _BENIGN, _ATTACK, _ACCENT, *_OTHERS = (f"#0{n}0{n}0{n}" for n in range(1, 10))
_VARIABLES = {
    _INK: "--ink",
    _MUTED: "--muted",
    _GRID: "--line",
    _BENIGN: "--benign",
    _ATTACK: "--attack",
    _ACCENT: "--accent",
    **{colour: f"--other{n}" for n, colour in enumerate(_OTHERS, start=1)},
}
_STYLES = [(_MUTED, "--"), *((colour, "-") for colour in _OTHERS)]
_SIZE = (4.6, 3.4)  # inches


def roc(curve: Mapping[str, Any], others: Sequence[tuple[str, Mapping[str, Any] | None]]) -> str:
    """Recall over the false-positive rate, on a logarithmic axis. Of `others`, (name, curve),
    the first is dashed, and three more are drawn; one without a curve is left out."""
    figure, axes = _axes()
    axes.plot(
        curve["false_positives"], curve["recall"], color=_ACCENT, lw=2.4, label="this detector"
    )
    for (name, other), (colour, dashes) in zip(others, _STYLES, strict=False):
        if not other:
            continue
        axes.plot(
            other["false_positives"], other["recall"], color=colour, ls=dashes, lw=1.2, label=name
        )
    for rate in (0.001, 0.01):
        axes.axvline(rate, color=_GRID, lw=1, zorder=0)
    axes.set(xscale="log", xlim=(1e-3, 1), ylim=(-0.01, 1.02))
    axes.set_xticks([0.001, 0.01, 0.1, 1], ["0.1 %", "1 %", "10 %", "100 %"])
    axes.minorticks_off()
    axes.set(xlabel="false positives", ylabel="recall")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=_INK)
    return _svg(figure)


def distribution(shares: Mapping[str, Any], thresholds: Mapping[str, float]) -> str:
    """How scores of harmless texts and attacks are spread, by their log-odds."""
    figure, axes = _axes()
    for name, colour in (("benign", _BENIGN), ("attack", _ATTACK)):
        label = "harmless" if name == "benign" else "attacks"
        axes.stairs(
            shares[name], shares["log_odds"], fill=True, color=colour, alpha=0.45, label=label
        )
        axes.stairs(shares[name], shares["log_odds"], color=colour, lw=1.4)
    for (name, threshold), dashes in zip(thresholds.items(), (":", "--"), strict=False):
        axes.axvline(_log_odds(threshold), color=_INK, lw=1.2, ls=dashes, label=name.upper())
    scores = (0.0001, 0.01, 0.5, 0.99, 0.9999)
    axes.set_xticks([_log_odds(score) for score in scores], [f"{score:g}" for score in scores])
    axes.set(xlabel="score (log-odds scale)", ylabel="share of the class", ylim=(0, None))
    axes.legend(loc="upper left", frameon=False, fontsize=8, labelcolor=_INK)
    return _svg(figure)


def reliability(measured: Mapping[str, Any]) -> str:
    """The share of attacks among texts of about the same score; on the diagonal the
    score is a probability."""
    figure, axes = _axes()
    bins = measured["bins"]
    scores, attacks = [b["score"] for b in bins], [b["attacks"] for b in bins]
    axes.plot([0, 1], [0, 1], color=_MUTED, lw=1, ls="--")
    axes.plot(scores, attacks, color=_ACCENT, lw=1.6)
    axes.scatter(scores, attacks, s=[20 + 300 * b["weight"] for b in bins], color=_ACCENT)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="score", ylabel="share of attacks")
    return _svg(figure)


def _log_odds(score: float) -> float:
    from math import log

    inside = min(max(score, 1e-4), 1 - 1e-4)
    return log(inside / (1 - inside))


def _axes() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.grid(color=_GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=8, length=0, pad=5)
    axes.xaxis.label.set(color=_INK, size=9)
    axes.yaxis.label.set(color=_INK, size=9)
    axes.spines[:].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> str:
    """The figure's `<svg>` element; the same figure gives the same text."""
    import matplotlib as mpl

    out = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "alknet-firewall"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    drawing = out.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*">', "<g>", drawing)  # ids would repeat from plot to plot
    for colour, variable in _VARIABLES.items():
        drawing = drawing.replace(colour, f"var({variable})")
    return drawing
