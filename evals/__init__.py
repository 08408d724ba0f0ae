"""Measures search: accuracy over spent tokens and seconds, by method and budget."""
