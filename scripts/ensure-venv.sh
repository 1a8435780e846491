#!/usr/bin/env bash
# Makes a virtual environment at $1, with Debian's python3-venv if python3 alone cannot.
set -euo pipefail
directory=${1:?usage: ensure-venv.sh DIRECTORY}
"$directory/bin/python" -m pip --version >/dev/null 2>&1 && exit 0
python3 -m venv --clear "$directory" >/dev/null 2>&1 && exit 0
bash "$(dirname "$0")/apt-install.sh" python3-venv
exec python3 -m venv --clear "$directory"
