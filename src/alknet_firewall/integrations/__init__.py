"""Adapters for stacks that people run already; each imports its package only when used."""
