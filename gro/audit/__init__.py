"""Red-teaming: every thief of a suite against one target, and what the worst of them is worth."""
