"""How fast things are: what `harness bench` measures, and the references that it measures against."""
