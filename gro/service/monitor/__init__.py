"""What accounts do: bounded sketches of their histories and one calibrated score that explains itself."""
