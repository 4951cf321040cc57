"""Tests of modules of fusefront/ by themselves; those of whole mounts stand in tests/mount/."""
