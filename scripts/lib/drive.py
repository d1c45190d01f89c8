"""What scripts/bench and scripts/chaos share: a lab of their own, measuring clients in it, and waiting with a deadline."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", SCRIPTS.parent / "target"))


def fail(text):
    sys.exit(f"{Path(sys.argv[0]).name}: {text}")


def build():
    """What is measured is this tree, never what some earlier one left behind."""
    built = subprocess.run(["cargo", "build", "--quiet", "--release", "--bins", "--examples"], cwd=SCRIPTS.parent, stdout=sys.stderr)
    if built.returncode != 0:
        fail("the programs cannot be built; scripts/demo installs what is missing")


class Lab:
    """The verbs of scripts/lab for one lab of this run's own."""

    def __init__(self, prefix, flavor, durability, *options):
        self.name = f"{prefix}-{os.getpid()}"
        self.flavor, self.durability, self.options, self.is_up = flavor, durability, options, False

    def __call__(self, *words, **options):
        return subprocess.run([SCRIPTS / "lab", "--name", self.name, *words], check=True, text=True, **options)

    def fresh(self, mode):
        options = [f"--{mode}", "--durability", self.durability]
        if self.is_up:
            self("reseed", *options)
        else:
            self("up", "--flavor", self.flavor, *options, *self.options, stderr=subprocess.DEVNULL)
            self.is_up = True
        self.env = dict(line.split("=", 1) for line in self("env", stdout=subprocess.PIPE).stdout.splitlines())
        self.dir = Path(self.env["LAB"])

    def process(self, host, *command, **options):
        """A process in a host that stays our own child's child: ended through `stop`."""
        return subprocess.Popen([SCRIPTS / "lab", "--name", self.name, "exec", host, *command], text=True, **options)

    def read(self, host, statement):
        return self("sql", host, statement, stdout=subprocess.PIPE).stdout


def writer(lab, client, host, *options):
    log = lab.dir / "client" / f"{client}.log"
    log.unlink(missing_ok=True)
    process = lab.process(
        "client", TARGET / "release/examples/writer", "--host", host, "--password-file", lab.dir / "secrets/app",
        "--log", log, "--client", str(client), *options)
    return process, log


def stop_writers(lab, writers):
    """SIGTERM by the pids of the client's host: nothing else runs there."""
    lab("exec", "client", "bash", "-c", """own=$(readlink /proc/self/ns/net)
for p in /proc/[0-9]*; do
    [ "$(cat "$p/comm" 2>/dev/null)" = writer ] && [ "$(readlink "$p/ns/net")" = "$own" ] && kill "${p#/proc/}"
done; true""")
    for process, _ in writers:
        process.wait(timeout=10)


def acks(log, wanted):
    """How many acknowledgements a log holds for which `wanted(server)` is true."""
    if not log.exists():
        return 0
    lines = (json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n"))
    return sum(1 for line in lines if line["kind"] == "ack" and wanted(line["server"]))


def until(what, test, seconds, step=0.05):
    end = time.monotonic() + seconds
    while not test():
        if time.monotonic() > end:
            return False if what is None else fail(f"{what} not after {seconds} s")
        time.sleep(step)
    return True
