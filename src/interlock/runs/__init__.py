"""Durable runs: steps, effects and recovery."""
