"""Durable runs: work that goes on after a crash, and what it needs on the way.

`records` says how a run is stored, `state` what the process that works on it knows.  `run` takes a
run up and records where it stands, `step` and `effect` are what a program asks for, `worker` finds
runs that are due and ends the work on one.  `admin` is for everybody else, `history` replays a run.
`breaker` is the circuit breaker, beside them.
"""
