#!/usr/bin/env bash
# Installs Debian packages, as root or through sudo; says what to do by hand where neither works.
set -euo pipefail
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo)
    if ! command -v sudo >/dev/null; then
        echo "$* is missing, and there is neither root nor sudo to install it: run 'apt-get install $*' as root" >&2
        exit 1
    fi
fi
if ! command -v apt-get >/dev/null; then
    echo "$* is missing, and there is no apt-get to install it with: install it by your system's own means" >&2
    exit 1
fi
echo "installing $*" >&2
"${as_root[@]}" apt-get update -qq
# A service that the package brings must not start: it would take Redis' usual port.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "$@"
