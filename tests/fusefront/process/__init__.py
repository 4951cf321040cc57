"""Tests of modules of fusefront/process/."""
