"""Turn a checkpoint into a bundle that ``edge`` runs without torch. ``python -m export --help``."""
