"""Solvers: find the best plan and prove that it is the best."""
