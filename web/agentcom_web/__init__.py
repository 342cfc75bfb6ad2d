"""The page and the HTTP API: reads the feed, forwards requests to the hub, never opens the store."""
