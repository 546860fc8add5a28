"""What every backend passes, with both APIs; and tests that compare the backends."""
