"""Tests of modules of engine/, in the folders of the engine."""
