"""Tests of modules of fusefront/mount/."""
