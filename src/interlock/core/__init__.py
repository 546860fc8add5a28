"""The pure core: no input or output, no clock, no randomness, no threads.

Keys, values, records, plans, outcomes, and the protocols as generators live here.
Whatever touches a database, a clock or a thread lives in `interlock.backends`.
"""
