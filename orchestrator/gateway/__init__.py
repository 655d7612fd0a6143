"""The ways in by HTTP: OpenAI's and Ollama's interfaces on top of a client of the orchestrator."""
