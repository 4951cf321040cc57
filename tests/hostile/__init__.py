"""Storages that an attacker has filled, before the commands of root."""
