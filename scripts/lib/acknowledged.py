"""What clients were told, compared with what the servers hold: set, list and order of acknowledgements."""

import json
from collections import Counter


def records(log):
    """The records of a writer's log; its last line may be half written."""
    with open(log) as lines:
        return [json.loads(line) for line in lines if line.endswith("\n")]


def rows(text):
    """Rows of `SELECT client, n FROM app.writes`."""
    return [tuple(int(field) for field in line.split("\t")[:2]) for line in text.splitlines()]


class Acknowledged:
    """The acknowledgements of one run, in the order in which clients had them."""

    def __init__(self, told):
        self.acks = sorted((record for record in told if record["kind"] == "ack"), key=lambda ack: ack["at_us"])
        self.foreign = sum(1 for record in told if record["kind"] == "error" and record["failure"] == "foreign")
        self.set = {(ack["client"], ack["n"]) for ack in self.acks}

    def lost(self, held):
        """Acknowledged rows that are not among `held`."""
        return self.set - set(held)

    def duplicated(self, held):
        """Rows acknowledged twice, written by nobody, or held twice."""
        told = Counter((ack["client"], ack["n"]) for ack in self.acks)
        there = Counter(held)
        return self.foreign + sum(1 for times in (*told.values(), *there.values()) if times > 1)

    def holes(self, held, lost):
        """A client writes row n + 1 after row n was acknowledged: what a server holds of it is a list without a hole. A row that is
        counted as lost is no hole as well."""
        highest = {}
        for client, n in held:
            highest[client] = max(n, highest.get(client, 0))
        there = set(held) | set(lost)
        return [(client, n) for client, last in sorted(highest.items()) for n in range(1, last + 1) if (client, n) not in there]

    def reigns(self):
        """Who acknowledged, in turn: server, first and last instant, how many."""
        turns = []
        for ack in self.acks:
            if not turns or turns[-1]["server"] != ack["server"]:
                turns.append({"server": ack["server"], "first_us": ack["at_us"], "count": 0})
            turns[-1]["last_us"] = ack["at_us"]
            turns[-1]["count"] += 1
        return turns

    def double_acknowledgers(self, promotions):
        """Acknowledgements go from one server to another once for each promotion at most; every change more is a server that acknowledged
        beside another."""
        return max(0, len(self.reigns()) - 1 - promotions)

    def longest_gap_ms(self):
        gaps = [after["at_us"] - before["at_us"] for before, after in zip(self.acks, self.acks[1:])]
        return round(max(gaps, default=0) / 1000, 1)
