"""Tests of modules of fusefront/control/."""
