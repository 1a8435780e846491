"""Jobs that end badly on purpose, for `make demo`."""
