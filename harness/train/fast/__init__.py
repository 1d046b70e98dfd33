"""What only makes a step fast: without it the same numbers come out, later."""
