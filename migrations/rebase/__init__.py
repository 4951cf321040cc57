"""Rebasing: the plan for an overlay over a replaced base, and its execution."""
