"""Interlock as seen from outside: the log, hooks, metrics and traces of the spaces of a process.

`observer` watches what the drivers do, beside the path of a write; the other modules say it.
"""
