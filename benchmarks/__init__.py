"""Measures what ships. Nothing imports this."""
