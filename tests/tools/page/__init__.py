"""Tests of the page that ``minifo report`` writes."""
