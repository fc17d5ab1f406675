"""What a service does to its lists before it answers."""
