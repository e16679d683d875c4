"""The compiled detector: what normal text looks like, and how attacks differ."""

from .codebook import Codebook
from .results import DetectionResult

__all__ = ["Codebook", "DetectionResult"]
