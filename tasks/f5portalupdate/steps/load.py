"""Writes a customer's devices into the portal's database, all or nothing."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from ..errors import PortalBusyError
from .transform import Device, Export

BUSY_SECONDS = 30
SCHEMA = """
CREATE TABLE IF NOT EXISTS devices (
    customer_id INTEGER NOT NULL,
    device_id TEXT NOT NULL,
    hostname TEXT NOT NULL,
    management_ip TEXT NOT NULL,
    port INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    status TEXT NOT NULL CHECK (status IN ('active', 'standby', 'offline', 'maintenance')),
    version TEXT NOT NULL,
    site TEXT NOT NULL,
    row_hash TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    removed_at TEXT,
    PRIMARY KEY (customer_id, device_id)
) WITHOUT ROWID
"""
UPSERT = """
INSERT INTO devices (customer_id, device_id, hostname, management_ip, port, status, version, site,
                     row_hash, updated_at, removed_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)
ON CONFLICT (customer_id, device_id) DO UPDATE SET
    hostname = excluded.hostname, management_ip = excluded.management_ip, port = excluded.port,
    status = excluded.status, version = excluded.version, site = excluded.site,
    row_hash = excluded.row_hash, updated_at = excluded.updated_at, removed_at = NULL
"""
REMOVE = "UPDATE devices SET removed_at = ?, updated_at = ? WHERE customer_id = ? AND device_id = ?"


class Changes(NamedTuple):
    """How many rows were written, and how many marked as removed."""

    written: int
    removed: int

    @property
    def total(self) -> int:
        """Rows that are other than before."""
        return self.written + self.removed


def load(database: Path, customer_id: int, export: Export, *, full_rebuild: bool) -> Changes:
    """Bring the customer's rows to what the export says, in one transaction.

    A device the export no longer names keeps its row, with `removed_at` set; one whose row was rejected stays as it
    is. Raises `PortalBusyError` if another writer holds the database for longer than 30 s.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_SECONDS, isolation_level=None)) as portal:
            # Taken before the first read, so that what is compared is what will be replaced.
            portal.execute("BEGIN IMMEDIATE")
            try:
                changes = _apply(portal, customer_id, export, full_rebuild=full_rebuild)
                portal.execute("COMMIT")
            except BaseException:
                if portal.in_transaction:
                    portal.execute("ROLLBACK")
                raise
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise PortalBusyError(f"{database} was held by another writer for {BUSY_SECONDS} s") from error
        raise
    return changes


def _apply(portal: sqlite3.Connection, customer_id: int, export: Export, *, full_rebuild: bool) -> Changes:
    portal.execute(SCHEMA)
    stored: dict[str, str] = dict(
        portal.execute(
            "SELECT device_id, row_hash FROM devices WHERE customer_id = ? AND removed_at IS NULL", (customer_id,)
        )
    )
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    hashed = [(device, device.row_hash()) for device in export.devices]
    changed = [pair for pair in hashed if full_rebuild or stored.get(pair[0].device_id) != pair[1]]
    gone = [device_id for device_id in stored if device_id not in export.named]
    portal.executemany(UPSERT, (_row(customer_id, device, row_hash, now) for device, row_hash in changed))
    portal.executemany(REMOVE, ((now, now, customer_id, device_id) for device_id in gone))
    return Changes(len(changed), len(gone))


def _row(customer_id: int, device: Device, row_hash: str, now: str) -> tuple[str | int, ...]:
    return (customer_id, *device, row_hash, now)
