"""What every backend passes, with both façades; and tests that compare the backends."""
