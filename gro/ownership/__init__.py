"""Ownership: who owns a recommender, what was committed to when, and whether a suspect is a copy of it."""
