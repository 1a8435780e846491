"""What the container, compose file and unit promise, read from the files themselves."""

import configparser
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

GRACE_SECONDS = 8


def instructions(root: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (root / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def last(root: Path, name: str) -> str:
    return [rest for instruction, rest in instructions(root) if instruction == name][-1]


def test_dockerfile_builds_in_stages_and_runs_without_root(root: Path) -> None:
    stages = [rest for name, rest in instructions(root) if name == "FROM"]
    assert len(stages) >= 2
    assert all(" AS " in stage for stage in stages)
    assert "python" in stages[-1]
    assert "rust" not in stages[-1]
    assert last(root, "USER") not in ("root", "0")


def test_dockerfile_starts_the_executor_itself(root: Path) -> None:
    assert json.loads(last(root, "ENTRYPOINT")) + json.loads(last(root, "CMD")) == ["executor", "serve"]
    assert last(root, "STOPSIGNAL") == "SIGTERM"
    check = last(root, "HEALTHCHECK")
    assert json.loads(check[check.index("[") :]) == ["executor", "doctor", "--health"]


def test_dockerfile_sets_what_a_container_needs_and_no_mode(root: Path) -> None:
    environment = dict(item.split("=", 1) for item in last(root, "ENV").split())
    assert environment["HTTP_ADDR"] == "0.0.0.0:8080"
    assert environment["DB_URL"] == "sqlite:///data/executor.db"
    assert environment["TASKS_PATH"] == "/app"
    text = (root / "Dockerfile").read_text()
    assert "ENV SCHEDULE_MODE" not in text
    assert not {"SCHEDULE_MODE", "SPEEDRUN_INTERVAL"} & environment.keys()
    assert {"/data", "/app/tools"} <= set(json.loads(last(root, "VOLUME")))


def test_what_the_dockerfile_copies_is_not_ignored(root: Path) -> None:
    kept = {line[1:] for line in (root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [rest.split()[:-1] for name, rest in instructions(root) if name == "COPY" and "--from" not in rest]
    assert {source for sources in copied for source in sources} <= kept


@pytest.fixture
def services(root: Path) -> dict[str, Any]:
    return yaml.safe_load((root / "compose.yaml").read_text())["services"]


def test_compose_joins_executor_and_a_redis_that_keeps_jobs(services: dict[str, Any]) -> None:
    executor, redis = services["fullsend-executor"], services["redis"]
    assert executor["environment"]["REDIS_URL"] == "redis://redis:6379"
    assert executor["depends_on"]["redis"]["condition"] == "service_healthy"
    assert int(executor["stop_grace_period"].removesuffix("s")) > GRACE_SECONDS
    assert "healthcheck" in redis
    assert redis["command"][redis["command"].index("--appendonly") + 1] == "yes"
    assert redis["command"][redis["command"].index("--maxmemory-policy") + 1] == "noeviction"
    assert "SCHEDULE_MODE" not in executor["environment"]


@pytest.fixture
def unit(root: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read(root / "packaging" / "executor.service")
    return parser["Service"]


def test_unit_lets_the_executor_end_in_order(unit: configparser.SectionProxy) -> None:
    assert (unit["Type"], unit["NotifyAccess"], unit["KillMode"]) == ("notify", "main", "mixed")
    assert unit["Restart"] == "on-failure"
    assert int(unit["TimeoutStopSec"].removesuffix("s")) > GRACE_SECONDS
    assert int(unit["WatchdogSec"].removesuffix("s")) > 0


def test_unit_confines_without_breaking_python(unit: configparser.SectionProxy) -> None:
    assert unit["User"] != "root"
    assert (unit["ProtectSystem"], unit["StateDirectory"]) == ("strict", "executor")
    assert (unit["NoNewPrivileges"], unit["PrivateTmp"]) == ("yes", "yes")
    assert "MemoryDenyWriteExecute" not in unit


def test_the_environment_sample_sets_only_what_the_unit_can_reach(root: Path) -> None:
    lines = (root / "packaging" / "executor.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert settings["DB_URL"].startswith("sqlite:///var/lib/executor/")
    assert settings["TOOLS_PATH"] == "/srv/executor/tools"
    assert "SCHEDULE_MODE" not in settings
