"""The protocols and their values, without a store."""
