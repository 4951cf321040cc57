"""Rebase: lists what a replaced base changes for an overlay, and carries out the user's decisions as row changes."""
