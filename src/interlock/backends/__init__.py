"""Backends: the stores and the drivers that run protocols on them.  No business rules live here."""
