"""Bundles: what changed between two states of an overlay, as one file that others with the first state can apply."""
