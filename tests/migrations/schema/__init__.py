"""Tests of modules of migrations/schema/."""
