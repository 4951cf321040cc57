"""Tests of modules of engine/tree/."""
