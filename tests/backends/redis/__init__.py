"""Redis: what is evicted or deleted."""
