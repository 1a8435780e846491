"""Makes the sample exports beside it, the same bytes every time: `python3 tasks/f5portalupdate/samples/generate.py`.

A few rows of each are wrong on purpose, as real exports are.
"""

import csv
import io
import sys
from pathlib import Path

ROWS = {1: 2400, 2: 3100, 3: 1800}
SITES = ("Frankfurt", "Dublin", "Ashburn", "Singapore", "São Paulo", "Osaka")
STATES = ("active", "Active", "up", "standby", "OFFLINE", "maintenance", "active", "active")
VERSIONS = ("16.1.3", "v16.1.4", "17.1", "17.1.0", "15.1.10.2", "17.5.1")
HEADER = ("device_id", "hostname", "management_ip", "port", "status", "version", "site")
EVERY_BAD_ROW = 211


class Numbers:
    """A small generator of its own: `random` promises no sequence from one Python to the next."""

    def __init__(self, seed: int) -> None:
        self._state = seed * 2654435761 % 2**32 or 1

    def below(self, limit: int) -> int:
        """The next number in 0..limit."""
        self._state = (self._state * 1664525 + 1013904223) % 2**32
        return (self._state >> 8) % limit


def sample(customer_id: int) -> bytes:
    """The export of one customer."""
    numbers = Numbers(customer_id)
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for number in range(1, ROWS[customer_id] + 1):
        row = [
            f"C{customer_id}-F5-{number:05}",
            f"f5-{number:05}.c{customer_id}.example.net",
            f"10.{customer_id}.{number // 250}.{number % 250 + 1}",
            ("443", "8443")[numbers.below(2)],
            STATES[numbers.below(len(STATES))],
            VERSIONS[numbers.below(len(VERSIONS))],
            SITES[numbers.below(len(SITES))],
        ]
        if number % EVERY_BAD_ROW == 0:
            row = _spoilt(row, number // EVERY_BAD_ROW % 6)
        writer.writerow(row)
    return out.getvalue().encode()


def _spoilt(row: list[str], how: int) -> list[str]:
    device_id, hostname, address, port, status, version, site = row
    return [
        [device_id, hostname, "10.1.300.4", port, status, version, site],
        [device_id, "-bad_host-", address, port, status, version, site],
        [device_id, hostname, address, "99999", status, version, site],
        [device_id, hostname, address, port, "unknown", version, site],
        [device_id, hostname, address, port, status, "latest", site],
        [device_id, hostname],
    ][how]


def main(directory: Path) -> None:
    """Write all samples into `directory`."""
    for customer_id in ROWS:
        (directory / f"customer_{customer_id}.csv").write_bytes(sample(customer_id))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
