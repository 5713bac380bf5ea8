"""Find a face, follow it, mark it and cut it out upright."""
