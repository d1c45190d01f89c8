"""One timeline of client, manager, agents, servers and faults, in the order of their clocks, which on one machine are one."""

import json
import re
from datetime import datetime, timezone
from pathlib import Path

# 2026-11-28T07:20:00.123456Z of our programs and MySQL; 2026-11-28  7:20:00 of MariaDB.
STAMP = re.compile(r"^\s*(\d{4}-\d\d-\d\d)[T ]+(\d{1,2}:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?\s*")
# What comes closer than this is one line.
TOGETHER_US = 250_000


def _instant(match):
    day, clock, part, zone = match.groups()
    text = f"{day}T{clock.zfill(8)}{(part or '')[:7]}"
    at = datetime.fromisoformat(text + (zone.replace("Z", "+00:00") if zone else ""))
    # MariaDB writes local time without a zone.
    return at.astimezone(timezone.utc)


def of_log(who, path):
    """The lines of a log with a time; one without belongs to the line before it."""
    if not Path(path).exists():
        return []
    entries = []
    for line in Path(path).read_text(errors="replace").splitlines():
        match = STAMP.match(line)
        if match:
            entries.append([_instant(match), who, line[match.end():]])
        elif entries and line.strip():
            entries[-1][2] += f"\n{'':36}{line}"
    return [tuple(entry) for entry in entries]


def of_client(records, wall_of):
    """Acknowledgements as turns of a server, errors as groups of one kind."""
    entries, turn, groups = [], None, {}
    for record in sorted(records, key=lambda record: record["at_us"]):
        at = record["at_us"]
        if record["kind"] == "ack":
            if turn is None or turn["server"] != record["server"] or at - turn["last"] > TOGETHER_US:
                turn = {"server": record["server"], "first": at, "last": at, "count": 0}
                entries.append(turn)
            turn["last"], turn["count"] = at, turn["count"] + 1
            continue
        key = (record["failure"], record["text"])
        group = groups.get(key)
        if group is None or at - group["last"] > TOGETHER_US:
            group = {"clients": set(), "first": at, "last": at, "count": 0, "text": f"{record['failure']}: {record['text']}"}
            groups[key] = group
            entries.append(group)
        group["last"], group["count"] = at, group["count"] + 1
        group["clients"].add(record["client"])
    lines = []
    for entry in entries:
        ms = (entry["last"] - entry["first"]) / 1000
        if "server" in entry:
            text = f"db{entry['server']} acknowledges {entry['count']} rows in {ms:.0f} ms"
        else:
            text = f"{len(entry['clients'])} clients, {entry['count']} times in {ms:.0f} ms: {entry['text']}"
        lines.append((wall_of(entry["first"]), "client", text))
    return lines


def write(path, entries):
    with open(path, "w") as out:
        for at, who, text in sorted(entries, key=lambda entry: entry[0]):
            out.write(f"{at:%H:%M:%S.%f} {who:>8}  {text}\n")


def keep_history(path, history):
    Path(path).write_text(json.dumps(history, indent=1))
