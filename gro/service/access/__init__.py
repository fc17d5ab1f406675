"""Who calls: API keys, JWT bearer tokens, sessions, and the address behind declared proxies."""
