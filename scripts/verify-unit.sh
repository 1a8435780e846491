#!/usr/bin/env bash
# Has systemd check a unit, where systemd is installed. The binary it starts need not be.
set -euo pipefail
unit=${1:?usage: verify-unit.sh UNIT}
if ! command -v systemd-analyze >/dev/null; then
    echo "no systemd-analyze here: $unit is not checked" >&2
    exit 0
fi
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
sed 's|/usr/local/bin/executor|/bin/true|' "$unit" >"$directory/$(basename "$unit")"
told=$(systemd-analyze verify "$directory/$(basename "$unit")" 2>&1) || { echo "$told" >&2; exit 1; }
[ -z "$told" ] || { echo "$told" >&2; exit 1; }
