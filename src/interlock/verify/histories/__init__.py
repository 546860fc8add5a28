"""Checks recorded histories of any system: linearizability per key, serializability.

`history` holds the format and what a check returns, `linear` the first check, `serial` with
`versions` the second.  The public names are given by `interlock.verify`.
"""
