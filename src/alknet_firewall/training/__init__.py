"""Compiling a codebook from labelled text, and measuring what it is worth."""
