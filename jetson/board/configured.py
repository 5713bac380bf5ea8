"""``configured.py KEY DEFAULT``: what /etc/edge/edge.toml says of a key, for scripts."""

from __future__ import annotations

import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG = Path("/etc/edge/edge.toml")


def main() -> int:
    """Print the value, or the default where the file says nothing; status 2 where it is no TOML."""
    key, default = sys.argv[1:]
    try:
        print(tomllib.loads(CONFIG.read_text(encoding="utf-8")).get(key, default))
    except (OSError, ValueError) as error:
        print(f"{CONFIG}: {error}; type: edge config check {CONFIG}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
