"""A fire drill: thieves against the guarded service over HTTP, next to replayed real users."""
