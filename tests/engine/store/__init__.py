"""Tests of modules of engine/store/."""
