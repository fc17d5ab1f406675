"""The thief's side: how it asks, how it learns, what it keeps."""
