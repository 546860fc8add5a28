"""Durable runs, workers and breakers in one process."""
