"""What `make bench` measures, and printing it."""
