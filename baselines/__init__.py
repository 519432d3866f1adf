"""Localizers: torch, feature steps; no files, no seconds."""
