"""Train the published systems on a desktop: corpora, networks, one loop. ``python -m train --help``."""
