"""The detector model: its weights, its engines, its hidden states."""
