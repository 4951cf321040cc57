"""The checks of ``minifo doctor``."""
