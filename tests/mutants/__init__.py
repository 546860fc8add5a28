"""Guards taken out of the real sources, one at a time: each must turn the test named for it red.

`guards.toml` says what each guard promises, the other tables where each layer holds it.  Run it
with `make mutants`, or `python -m tests.mutants NAME...`.
"""
