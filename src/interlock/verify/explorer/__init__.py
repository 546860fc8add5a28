"""The schedule explorer: every interleaving of a few agents' requests, with faults.

The agents are real functions on the real API, the store is the real SQLite backend in memory.
`search` goes through the schedules, `agents` runs the functions, `store` holds the store's
contents, `invariants` what must hold in each, `story` the words in which a schedule is told.
"""
