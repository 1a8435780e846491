"""Turns the text of an export into devices, and says of every row it rejects why. Pure: reads and writes nothing."""

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from ipaddress import ip_address
from typing import NamedTuple

from ..errors import MalformedExportError

COLUMNS = ("device_id", "hostname", "management_ip", "port", "status", "version", "site")
STATUSES = {
    "active": "active",
    "up": "active",
    "online": "active",
    "standby": "standby",
    "offline": "offline",
    "down": "offline",
    "maintenance": "maintenance",
    "disabled": "maintenance",
}
_DEVICE_ID = re.compile(r"[A-Z0-9][A-Z0-9-]{0,63}", re.ASCII)
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)", re.ASCII)
_VERSION = re.compile(r"v?(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?(?:\.(\d{1,3}))?", re.ASCII | re.IGNORECASE)
MAX_SITE = 100


class Device(NamedTuple):
    """One device in its normal form."""

    device_id: str
    hostname: str
    management_ip: str
    port: int
    status: str
    version: str
    site: str

    def row_hash(self) -> str:
        """Equal for two devices exactly if all their fields are."""
        return hashlib.sha256("\x1f".join(map(str, self)).encode()).hexdigest()


class Rejected(NamedTuple):
    """A row that was left out, by its line in the file."""

    line: int
    reason: str


class Export(NamedTuple):
    """What an export says: its devices, the rows left out, and every device it names, be its row valid or not."""

    devices: list[Device]
    rejected: list[Rejected]
    named: frozenset[str]


def transform(text: str, name: str) -> Export:
    """Check and normalise every row. `name` says in errors which export is meant."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    places = _places(reader, name)
    devices: dict[str, Device] = {}
    lines: dict[str, int] = {}
    rejected: list[Rejected] = []
    named: set[str] = set()
    end = 1
    try:
        for row in reader:
            line, end = end + 1, reader.line_num
            if not row:
                continue
            try:
                device = _device(row, places, named)
                if device.device_id in devices:
                    raise ValueError(f"device {device.device_id} is already on line {lines[device.device_id]}")
            except ValueError as error:
                rejected.append(Rejected(line, str(error)))
                continue
            devices[device.device_id] = device
            lines[device.device_id] = line
    except csv.Error as error:
        raise MalformedExportError(f"{name} is no CSV at line {reader.line_num}: {error}") from error
    if not devices:
        # Taken at its word it would remove every device of the customer.
        raise MalformedExportError(f"{name} has no valid row ({len(rejected)} rejected): nothing is changed")
    return Export(list(devices.values()), rejected, frozenset(named))


def _places(reader: Iterator[list[str]], name: str) -> list[int]:
    """Where each of `COLUMNS` stands. Their order is free, further columns are ignored."""
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
    except csv.Error as error:
        raise MalformedExportError(f"{name} is no CSV at line 1: {error}") from error
    if not header:
        raise MalformedExportError(f"{name} is empty: expected the header {','.join(COLUMNS)}")
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise MalformedExportError(f"the header of {name} lacks {', '.join(missing)}")
    twice = [column for column in COLUMNS if header.count(column) > 1]
    if twice:
        raise MalformedExportError(f"the header of {name} has {', '.join(twice)} twice")
    return [header.index(column) for column in COLUMNS]


def _device(row: list[str], places: list[int], named: set[str]) -> Device:
    """The device of a row; its id goes into `named` even if the rest is wrong. Raises ValueError with the reason."""
    if places[0] < len(row):
        device_id = row[places[0]].strip().upper()
        if _DEVICE_ID.fullmatch(device_id):
            named.add(device_id)
    if max(places) >= len(row):
        raise ValueError(f"has {len(row)} fields, too few")
    device_id, hostname, address, port, status, version, site = (row[place].strip() for place in places)
    if not _DEVICE_ID.fullmatch(device_id.upper()):
        raise ValueError(f"device_id {device_id!r} is not 1 to 64 letters, digits and hyphens")
    return Device(
        device_id.upper(),
        _hostname(hostname),
        _address(address),
        _port(port),
        _status(status),
        _version(version),
        _site(site),
    )


def _hostname(text: str) -> str:
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"hostname {text!r} is not a host name")
    return name


def _address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise ValueError(f"management_ip {text!r} is not an IP address") from None
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError(f"management_ip {text!r} is no address of a device")
    return str(address)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError(f"port {text!r} is not in 1..65535")
    return int(text)


def _status(text: str) -> str:
    status = STATUSES.get(text.lower())
    if status is None:
        raise ValueError(f"status {text!r} is none of {', '.join(STATUSES)}")
    return status


def _version(text: str) -> str:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise ValueError(f"version {text!r} is not like 16.1.3")
    # `17.1` and `v17.1.0` are one version.
    major, minor, patch, build = (int(part or 0) for part in match.groups())
    return f"{major}.{minor}.{patch}" + (f".{build}" if build else "")


def _site(text: str) -> str:
    if len(text) > MAX_SITE or not text.isprintable():
        raise ValueError(f"site is not printable text of at most {MAX_SITE} characters")
    return " ".join(text.split())
