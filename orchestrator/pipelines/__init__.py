"""One pipeline or several that share the fleet and the requests (pure)."""
