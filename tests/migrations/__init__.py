"""Tests of modules of migrations/, in the folders of the migrations."""
