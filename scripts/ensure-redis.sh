#!/usr/bin/env bash
# Installs Debian's redis-server if there is none. It is never started as a service: tests and demo start their own.
set -euo pipefail
command -v redis-server >/dev/null && exit 0
exec bash "$(dirname "$0")/apt-install.sh" redis-server
