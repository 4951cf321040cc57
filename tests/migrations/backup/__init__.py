"""Tests of migrations/backup."""
