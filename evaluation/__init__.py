"""Scores: numpy, seconds; no torch, no printing."""
