"""Tests of modules of migrations/merge/."""
