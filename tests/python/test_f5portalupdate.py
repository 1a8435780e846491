"""The portal update against real files, a real database and a real HTTP server."""

import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.f5portalupdate.errors import (
    MalformedExportError,
    PortalBusyError,
    SourceError,
    SourceUnavailableError,
    UnknownCustomerError,
)
from tasks.f5portalupdate.main import run
from tasks.f5portalupdate.steps import load as load_step
from tasks.f5portalupdate.steps.transform import transform

HEADER = "device_id,hostname,management_ip,port,status,version,site\n"
ONE = "D1,one.example.net,10.0.0.1,443,active,16.1.3,Dublin\n"
TWO = "D2,two.example.net,10.0.0.2,443,standby,16.1.3,Dublin\n"


@pytest.fixture
def portal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "made" / "portal.db"
    monkeypatch.setenv("F5_PORTAL_DB", str(path))
    monkeypatch.delenv("F5_SOURCE", raising=False)
    return path


@pytest.fixture
def export(tmp_path: Path, portal: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "exports"
    directory.mkdir()
    monkeypatch.setenv("F5_SOURCE", str(directory))
    return directory / "customer_7.csv"


def rows(portal: Path, query: str) -> list[tuple]:
    with closing(sqlite3.connect(portal)) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.parametrize(("customer_id", "devices"), [(1, 2389), (2, 3086), (3, 1792)])
def test_samples_load_once(portal: Path, customer_id: int, devices: int) -> None:
    assert run(customer_id) == {"updated_rows": devices, "customer_id": customer_id}
    assert run(customer_id) == {"updated_rows": 0, "customer_id": customer_id}
    assert run(customer_id, full_rebuild=True) == {"updated_rows": devices, "customer_id": customer_id}
    assert rows(portal, "SELECT count(*), min(customer_id), max(customer_id) FROM devices") == [
        (devices, customer_id, customer_id)
    ]


def test_customers_do_not_touch_each_other(portal: Path) -> None:
    run(1)
    run(3)
    run(1, full_rebuild=True)
    assert rows(portal, "SELECT customer_id, count(*) FROM devices WHERE removed_at IS NULL GROUP BY 1") == [
        (1, 2389),
        (3, 1792),
    ]


def test_committed_samples_are_what_the_script_makes(root: Path, tmp_path: Path) -> None:
    samples = root / "tasks" / "f5portalupdate" / "samples"
    subprocess.run([sys.executable, samples / "generate.py", tmp_path], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    assert made == {path.name: path.read_bytes() for path in samples.glob("*.csv")}
    assert sorted(made) == ["customer_1.csv", "customer_2.csv", "customer_3.csv"]


def test_default_database_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("F5_PORTAL_DB", raising=False)
    monkeypatch.delenv("F5_SOURCE", raising=False)
    monkeypatch.chdir(tmp_path)
    run(3)
    assert rows(tmp_path / "data" / "f5_portal.db", "SELECT count(*) FROM devices") == [(1792,)]


def test_only_what_changed_is_written(export: Path, portal: Path) -> None:
    export.write_text(HEADER + ONE + TWO)
    assert run(7)["updated_rows"] == 2
    export.write_text(HEADER + ONE.replace("443", "8443") + TWO)
    assert run(7)["updated_rows"] == 1
    assert rows(portal, "SELECT device_id, port FROM devices") == [("D1", 8443), ("D2", 443)]


def test_a_vanished_device_is_marked_and_may_return(export: Path, portal: Path) -> None:
    export.write_text(HEADER + ONE + TWO)
    run(7)
    export.write_text(HEADER + ONE)
    assert run(7)["updated_rows"] == 1
    assert run(7)["updated_rows"] == 0
    assert rows(portal, "SELECT device_id FROM devices WHERE removed_at IS NOT NULL") == [("D2",)]
    export.write_text(HEADER + ONE + TWO)
    assert run(7)["updated_rows"] == 1
    assert rows(portal, "SELECT count(*) FROM devices WHERE removed_at IS NULL") == [(2,)]


def test_a_device_whose_row_is_rejected_stays_as_it_is(export: Path, portal: Path) -> None:
    export.write_text(HEADER + ONE + TWO)
    run(7)
    export.write_text(HEADER + ONE + TWO.replace("443", "0"))
    assert run(7)["updated_rows"] == 0
    assert rows(portal, "SELECT port, removed_at FROM devices WHERE device_id = 'D2'") == [(443, None)]


def test_a_failure_half_way_changes_nothing(export: Path, portal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export.write_text(HEADER + ONE + TWO)
    run(7)
    export.write_text(HEADER + ONE.replace("443", "8443"))
    monkeypatch.setattr(load_step, "REMOVE", "UPDATE no_such_table SET a = ?, b = ? WHERE c = ? AND d = ?")
    with pytest.raises(sqlite3.OperationalError, match="no_such_table"):
        run(7)
    assert rows(portal, "SELECT device_id, port FROM devices") == [("D1", 443), ("D2", 443)]


def test_a_held_database_is_a_transient_failure(export: Path, portal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export.write_text(HEADER + ONE)
    run(7)
    monkeypatch.setattr(load_step, "BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(portal, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(PortalBusyError, match="another writer") as raised:
            run(7)
    assert isinstance(raised.value, TimeoutError)


def test_bad_rows_are_told_with_line_and_reason(export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export.write_text(HEADER + ONE + TWO.replace("10.0.0.2", "10.0.0.256") + "\n" + ONE + "D3,three\n")
    assert run(7)["updated_rows"] == 1
    told = capsys.readouterr().out.splitlines()
    assert told[:4] == [
        "line 3: management_ip '10.0.0.256' is not an IP address",
        "line 5: device D1 is already on line 2",
        "line 6: has 2 fields, too few",
        "customer 7: 1 devices read, 3 rows rejected",
    ]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        (0, "no/slash", "device_id"),
        (1, "-a.example", "hostname"),
        (1, "a..example", "hostname"),
        (2, "127.0.0.1", "no address of a device"),
        (2, "", "not an IP address"),
        (3, "0", "port"),
        (3, "65536", "port"),
        (3, "４４３", "port"),
        (4, "melted", "status"),
        (5, "16", "version"),
        (6, "x" * 101, "site"),
    ],
)
def test_each_field_is_checked(column: int, value: str, reason: str) -> None:
    fields = TWO.strip().split(",")
    fields[column] = value
    export = transform(HEADER + ONE + ",".join(fields) + "\n", "it")
    assert [device.device_id for device in export.devices] == ["D1"]
    assert [rejected.line for rejected in export.rejected] == [3]
    assert reason in export.rejected[0].reason


def test_fields_come_into_their_normal_form() -> None:
    text = "Site,extra,VERSION,status,port,management_ip,hostname,device_id\n"
    text += '" New\tYork ".,x,v17.1,UP,0443,2001:DB8::0001,ONE.Example.net.,d1\n'.replace("\t", " ").replace('".', '"')
    (device,) = transform(text, "it").devices
    assert device == ("D1", "one.example.net", "2001:db8::1", 443, "active", "17.1.0", "New York")


def test_line_numbers_count_lines_not_rows() -> None:
    export = transform(HEADER + ONE.replace("Dublin", '"Dub\nlin"') + TWO + ONE.replace("443", "x"), "it")
    assert [(rejected.line, rejected.reason[:4]) for rejected in export.rejected] == [(2, "site"), (5, "port")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        (HEADER, "has no valid row"),
        (HEADER + "D1,x\n", "1 rejected"),
        ("device_id,hostname\n" + ONE, "lacks management_ip, port, status, version, site"),
        (HEADER.replace("site", "site,port") + ONE, "has port twice"),
        (HEADER + ONE + '"open', "is no CSV at line 3"),
    ],
)
def test_an_unusable_export_changes_nothing(export: Path, portal: Path, content: str, reason: str) -> None:
    export.write_text(HEADER + ONE)
    run(7)
    export.write_text(content)
    with pytest.raises(MalformedExportError, match=reason):
        run(7)
    assert rows(portal, "SELECT device_id, removed_at FROM devices") == [("D1", None)]


def test_an_export_that_is_not_utf8_is_refused(export: Path) -> None:
    export.write_bytes((HEADER + ONE).encode() + b"\xff")
    with pytest.raises(MalformedExportError, match="is not UTF-8"):
        run(7)


def test_faults_of_the_source_are_told(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownCustomerError, match=r"no export of customer 7: no customer_7\.csv"):
        run(7)
    with pytest.raises(ValueError, match="1 or more"):
        run(0)
    monkeypatch.setenv("F5_SOURCE", str(export.parent / "nowhere"))
    with pytest.raises(SourceError, match="neither a directory nor"):
        run(7)


class Exports(BaseHTTPRequestHandler):
    """Customer 7 exists; 8 and on are faults of the server."""

    def do_GET(self) -> None:
        body = (HEADER + ONE).encode()
        status = {"/f5/customer_7.csv?key=s3cret": 200, "/f5/customer_8.csv?key=s3cret": 503}.get(self.path, 404)
        if "customer_9" in self.path:
            status = 200
            body = body[:40]
        if "customer_10" in self.path:
            status = 403
        self.send_response(status)
        self.send_header("Content-Length", str(len(HEADER + ONE)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Keep the output of the tests clean."""


@pytest.fixture
def server(portal: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Exports) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("F5_SOURCE", f"http://127.0.0.1:{listening.server_port}/f5/?key=s3cret")
        yield listening
        listening.shutdown()
        thread.join()


def test_an_export_comes_over_http(server: ThreadingHTTPServer) -> None:
    assert run(7) == {"updated_rows": 1, "customer_id": 7}


@pytest.mark.parametrize(
    ("customer_id", "error", "reason"),
    [
        (6, UnknownCustomerError, "no export of customer 6: .* answered 404"),
        (8, SourceUnavailableError, "answered 503"),
        (9, SourceUnavailableError, "broke off"),
        (10, SourceError, "answered 403"),
    ],
)
def test_faults_over_http(server: ThreadingHTTPServer, customer_id: int, error: type, reason: str) -> None:
    with pytest.raises(error, match=reason) as raised:
        run(customer_id)
    assert "s3cret" not in str(raised.value)


def test_a_server_that_is_away_is_a_transient_failure(portal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # bound and not listening: whoever connects is refused
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("F5_SOURCE", f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(ConnectionError, match="could not be read"):
            run(7)


def test_a_password_in_the_url_is_refused_and_not_told(portal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("F5_SOURCE", "http://user:s3cret@127.0.0.1/f5")
    with pytest.raises(SourceError, match="must not hold") as raised:
        run(7)
    assert "s3cret" not in str(raised.value)
