"""Durable runs: work that goes on after a crash, and what it needs on the way."""
