"""Advice that several places give."""

BY_COMPOSE = "LINGUABUS_MODEL=SOURCE docker compose up -d"
"""Brings a model to a fleet in containers, whose serving image can't convert."""
ADD_A_MODEL = f"linguabus model add SOURCE, or with Docker Compose: {BY_COMPOSE}"
START_THE_FLEET = "start it with 'linguabus up'"
"""On the fleet's host, where nobody answers at the broker's address."""
