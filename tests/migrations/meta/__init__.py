"""Tests of modules of migrations/meta/."""
