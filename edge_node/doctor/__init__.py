"""A look at this device and its way to the fleet, for who runs a node on it."""
