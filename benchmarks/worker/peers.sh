#!/usr/bin/env bash
# Makes an environment with the peers of benchmarks/worker/decode.py: torch, transformers and
# llama.cpp, the last one built here for this processor. Takes minutes. Without OpenBLAS, Debian's torch
# multiplies with the reference BLAS, ten times slower.
#
#     apt-get install python3-torch libopenblas0-pthread python3-venv cmake g++
#     benchmarks/worker/peers.sh DIR
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
target="${1:?"say where: $0 DIR"}"
python="${SYSTEM_PYTHON:-/usr/bin/python3}"

if ! "$python" -c 'import torch' 2>/dev/null; then
	echo "$python has no torch: apt-get install python3-torch, or name another one in SYSTEM_PYTHON" >&2
	exit 1
fi
"$python" -m venv --system-site-packages "$target"
# ggml's own switches: all instructions of this processor, no threads' library that would pin them.
export CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DGGML_LLAMAFILE=ON -DMTMD_BUILD=OFF \
	-DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TOOLS=OFF"
export CMAKE_BUILD_PARALLEL_LEVEL="${JOBS:-1}"
"$target/bin/python" -m pip install --disable-pip-version-check --quiet \
	--no-binary llama-cpp-python -r "$here/peers.txt"
