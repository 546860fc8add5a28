"""The pure core: no input or output, no clock, no randomness, no threads.

Keys, values, records, rules, plans, refusals, and the protocols on records as generators live here.
Those of runs, streams and files live in their packages; `interlock.backends` runs them all.
"""
