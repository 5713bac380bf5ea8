#!/usr/bin/env bash
# A container's one process: engines first, as edge-engines.service does it, then what edge.service runs.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

if (($#)); then exec "$@"; fi
"$HERE/build-engines.sh" || echo "edge: warning: engines were not built (above), so the CPU does the work" >&2
exec /opt/edge/current/bin/edge run --config /etc/edge/edge.toml
