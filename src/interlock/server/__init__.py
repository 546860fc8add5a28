"""Servers over the API, for programs that are not written in Python.  Imported when used."""
