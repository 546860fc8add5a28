"""The tests of Interlock."""
