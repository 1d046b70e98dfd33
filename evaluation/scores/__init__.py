"""Measuring: from models and images to the score table."""
