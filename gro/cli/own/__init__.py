"""``gro own``: prove that a stolen copy is yours."""
