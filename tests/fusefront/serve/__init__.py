"""Tests of modules of fusefront/serve/."""
