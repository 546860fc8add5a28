"""Guards of data that stays where it is."""
