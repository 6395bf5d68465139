#!/usr/bin/env bash
# Runs stock clients, unchanged, against a worker or a gateway: LangChain's chat model, and guidellm.
# Makes their environment in DIR (outside of the repository; minutes, once), prints what they
# reported, and fails if one of them did.
#
#     apt-get install python3-torch python3-venv
#     benchmarks/worker/clients.sh DIR URL [--model NAME] [--tokenizer CHECKPOINT] [--ca FILE] \
#         [--only langchain]
#
# URL is the server's, without /v1: http://127.0.0.1:8000, or what `sluice gateway url` prints. The
# model is the first one that it lists. A key is taken from OPENAI_API_KEY; FILE has the authority of
# the server's certificate (PEM), where the system does not trust it. Only guidellm needs torch.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
target="${1:?"say where the clients are to be installed: $0 DIR URL"}"
url="${2:?"say whom to ask: $0 DIR URL"}"
shift 2
python="${SYSTEM_PYTHON:-/usr/bin/python3}"

case "$(realpath -m "$target")/" in
	"$(realpath "$here/../..")"/*)
		echo "$target is inside the repository: name a directory outside of it" >&2
		exit 1
		;;
esac
if [[ " $* " != *" --only langchain "* ]] && ! "$python" -c 'import torch' 2>/dev/null; then
	echo "$python has no torch, which guidellm needs: apt-get install python3-torch, name another one in" \
		"SYSTEM_PYTHON, or leave guidellm out by --only langchain" >&2
	exit 1
fi
if ! cmp -s "$here/clients.txt" "$target/installed.txt"; then
	"$python" -m venv --system-site-packages "$target"
	# The list is whole; torch, which it leaves out, is the system's.
	"$target/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps \
		-r "$here/clients.txt"
	cp "$here/clients.txt" "$target/installed.txt"
fi
# Nothing is fetched from a hub, and the warnings are of the clients' own libraries.
export HF_HUB_OFFLINE=1 PYTHONWARNINGS=ignore
exec "$target/bin/python" "$here/clients.py" "$url" --reports "$target/reports" "$@"
