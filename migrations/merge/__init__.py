"""Merging: the plan that makes a base show what its overlay shows, and its execution."""
