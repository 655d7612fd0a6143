"""Replanning: when to plan, with which nodes, and what to ask the planner (pure)."""
