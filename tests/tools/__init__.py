"""Tests of modules of tools/: the command line."""
