"""Training of targets: plain, and protected by GRO."""
