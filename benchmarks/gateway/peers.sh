#!/usr/bin/env bash
# Makes a directory with the peers of benchmarks/gateway/cost.py, without root: LiteLLM's proxy and
# sglang-router from PyPI, HAProxy and what it is linked with from Debian's packages.
#
#     benchmarks/gateway/peers.sh DIR
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
target="${1:?"say where: $0 DIR"}"
mkdir -p "$target/debs"
target="$(cd "$target" && pwd)"

python3 -m venv "$target/venv"
"$target/venv/bin/python" -m pip install --disable-pip-version-check --quiet -r "$here/peers/peers.txt"
cd "$target/debs"
apt-get download --quiet haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
for package in *.deb; do
	dpkg -x "$package" "$target/root"
done
LD_LIBRARY_PATH="$target/root/usr/lib/x86_64-linux-gnu" "$target/root/usr/sbin/haproxy" -v | head -n 1
