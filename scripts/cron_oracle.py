#!/usr/bin/env python3
"""Writes what croniter and cronsim say, for the differential test of `src/cron`.

`python scripts/cron_oracle.py croniter|cronsim > tests/fixtures/cron/NAME.jsonl` with the versions
of `scripts/requirements-oracle.txt`. Deterministic: the same versions give the same files.
"""

from __future__ import annotations

import json
import random
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

FIELDS = [
    (0, 59, []),
    (0, 23, []),
    (1, 31, []),
    (1, 12, ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 7, ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
    (0, 59, []),
]
ALIASES = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"]
WRONG = ["60", "24", "x", "-1", "1-", "*/0", "5/x", "", "1--2", "32", "13", "8", "1,,2", "**"]


def value(rng: random.Random, field: tuple[int, int, list[str]]) -> str:
    """A value of the field, sometimes by name."""
    low, high, names = field
    if names and rng.random() < 0.4:
        name = rng.choice(names)
        return name.upper() if rng.random() < 0.3 else name
    return str(rng.randint(low, high))


def token(rng: random.Random, field: tuple[int, int, list[str]]) -> str:
    """One item of a list: star, value, range, each perhaps with a step."""
    kind = rng.random()
    if kind < 0.35:
        return value(rng, field)
    step = f"/{rng.randint(1, 40)}" if rng.random() < 0.6 else ""
    if kind < 0.55:
        return f"*{step}"
    if kind < 0.65:
        return f"{value(rng, field)}/{rng.randint(1, 40)}"
    return f"{value(rng, field)}-{value(rng, field)}{step}"


def expression(rng: random.Random) -> str:
    """A random expression, a few of them wrong."""
    if rng.random() < 0.02:
        return rng.choice(ALIASES)
    count = 6 if rng.random() < 0.2 else 5
    fields = []
    for field in FIELDS[:count]:
        if rng.random() < 0.35:
            fields.append("*")
        else:
            fields.append(",".join(token(rng, field) for _ in range(rng.choice([1, 1, 1, 2, 3]))))
    if rng.random() < 0.05:
        fields[rng.randrange(count)] = rng.choice(WRONG)
    return " ".join(fields)


def text(at: datetime) -> str:
    """RFC 3339 in UTC."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def by_croniter() -> None:
    """3 000 random expressions, each from a random base time, in UTC."""
    from croniter import CroniterBadCronError, CroniterBadDateError, croniter

    rng = random.Random(20261128)
    for _ in range(3000):
        words = expression(rng)
        base = datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(20 * 365 * 86400))
        case: dict[str, object] = {"expression": words, "after": text(base)}
        try:
            schedule = croniter(words, base)
            case["next"] = [text(schedule.get_next(datetime)) for _ in range(3)]
        except CroniterBadDateError:
            case["next"] = []
        except (CroniterBadCronError, ValueError, KeyError):
            case["next"] = None
        print(json.dumps(case))


def changes(zone: ZoneInfo, after: datetime, count: int) -> list[datetime]:
    """The next clock changes of a zone, found by halving days in which its offset changes."""
    found = []
    day = after
    while len(found) < count and day < after + timedelta(days=800):
        end = day + timedelta(days=1)
        if day.astimezone(zone).utcoffset() != end.astimezone(zone).utcoffset():
            low, high = day, end
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) / 2
                middle = middle.replace(microsecond=0)
                same = middle.astimezone(zone).utcoffset() == low.astimezone(zone).utcoffset()
                low, high = (middle, high) if same else (low, middle)
            found.append(high)
        day = end
    return found


def by_cronsim() -> None:
    """Every zone, its next two clock changes, expressions that fall into them."""
    from cronsim import CronSim

    start = datetime(2026, 11, 28, tzinfo=UTC)
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        for change in changes(zone, start, 2) or [start]:
            before = (change - timedelta(seconds=1)).astimezone(zone)
            hour = before.hour
            inside = change.astimezone(zone).hour if hour == 23 else (hour + 1) % 24
            for words in (
                f"30 {inside} * * *",
                f"15,45 {hour} * * *",
                "*/20 * * * *",
                "10 * * * *",
                f"*/30 {hour} * * *",
            ):
                base = (change - timedelta(hours=5)).astimezone(zone)
                schedule = CronSim(words, base)
                found = [text(next(schedule)) for _ in range(4)]
                case = {"expression": words, "zone": name, "after": text(base), "next": found}
                print(json.dumps(case))


if __name__ == "__main__":
    {"croniter": by_croniter, "cronsim": by_cronsim}[sys.argv[1]]()
