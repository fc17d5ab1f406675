"""The guard: authentication, limits, monitoring, response and audit in front of a ranking service."""
