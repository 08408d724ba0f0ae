"""Measurements of the engine, the search and the embedded model, each a command of its own."""
