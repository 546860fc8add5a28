"""Checks recorded histories of any system: linearizability per key, serializability.

`operations` and `reading` hold the format; `linear` with `registers` and `explaining` the first
check; `serial` with `versions`, `dependencies` and `cycles` the second; `verdicts` what both
return.  The public names are given by `interlock.verify`.
"""
