"""Standby: which units of its neighbours each node keeps ready."""
