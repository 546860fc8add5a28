"""The backends: what one of them does, and what they share below the protocols."""
