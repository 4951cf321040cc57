"""Backups: a state of an overlay, with its checkpoints, as an archive or a directory, and as a storage again."""
