"""Backends: the one place that performs input and output.  No business rules live here."""
