"""Experiments as cards: what to run, run cell by cell, and the plot of what came out."""
