"""Measurements beside raw SQLite: both sides in one run, interleaved, printed as ratios."""
