"""Servers over the façades, for programs that are not written in Python.  Imported when used."""
