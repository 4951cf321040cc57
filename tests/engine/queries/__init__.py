"""Tests of modules of engine/queries/."""
