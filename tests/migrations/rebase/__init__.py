"""Tests of modules of migrations/rebase/."""
