"""Showing: from the score table to matrices, tables, comparisons, pictures and the page."""
