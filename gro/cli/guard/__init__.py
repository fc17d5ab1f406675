"""``gro guard``: what the platform team does at the command line."""
