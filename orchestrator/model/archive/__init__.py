"""Converted models in one file: written from a store, and taken into another one by machines that can't convert."""
