#!/usr/bin/env bash
# TensorRT's engines for the configured bundle, on this board. What is built already is left alone.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=/opt/edge/current/bin/python

bundle=$("$PYTHON" "$HERE/configured.py" bundle face)
backend=$("$PYTHON" "$HERE/configured.py" backend auto)
if [[ $backend == onnxruntime ]]; then
    echo "edge.toml asks for the CPU (backend = \"onnxruntime\"): no engines are needed"
    exit 0
fi
# provision.sh builds PyCUDA, and leaves this beside it.
if [[ ! -e /opt/edge/current/.gpu ]]; then
    echo "<4>PyCUDA is not installed, so the CPU does the work; to have it built, type: sudo jetson/provision.sh"
    exit 0
fi
# Progress as it comes, not when a buffer is full.
exec "$PYTHON" -u -m export.to_tensorrt "$bundle"
