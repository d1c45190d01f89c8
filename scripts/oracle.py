"""The yardstick: a failover by somebody who knows at once who died, and asks nobody.

oracle.py LAB FLAVOR DURABILITY PRIMARY SURVIVOR…   prints "ready", reads one line, fails over, prints timings as JSON.
Runs inside the lab's mount and process namespaces, connected to every survivor beforehand. No sleeps, no checks.
"""
import ctypes, fcntl, json, os, select, socket, struct, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor, wait
import pymysql

LAB, FLAVOR, DURABILITY, PRIMARY, *SURVIVORS = sys.argv[1:]
MYSQL, LOSSLESS, VIP = FLAVOR == "mysql", DURABILITY == "lossless", socket.inet_aton("10.77.0.100")
WORD, SOURCE_SIDE, CHANGE, SOURCE = ("REPLICA", "source", "REPLICATION SOURCE", "SOURCE") if MYSQL else ("SLAVE", "master", "MASTER", "MASTER")
clients = {host: pymysql.connect(unix_socket=f"{LAB}/{host}/run/server.sock", user="root", autocommit=True).cursor() for host in SURVIVORS}
steps, applied, OLD = {}, threading.Event(), socket.gethostbyname(PRIMARY)

def step(what):
    steps[what] = round((time.monotonic() - started) * 1000, 2)

def run(host, *statements):
    for statement in statements:
        clients[host].execute(statement)
    return clients[host].fetchone()

def in_network(host):  # a netlink and a packet socket in that host's network namespace
    with open(f"/run/netns/{host}") as file:
        assert ctypes.CDLL(None).setns(file.fileno(), 0x40000000) == 0
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    packet.bind(("eth0", 0x0806))
    return netlink, packet, socket.if_nametoindex("eth0"), fcntl.ioctl(packet, 0x8927, struct.pack("256s", b"eth0"))[18:24]

def address(host, add):  # RTM_NEWADDR and a gratuitous ARP, or RTM_DELADDR; the kernel's answer is awaited
    netlink, packet, index, mac = network[host]
    body = struct.pack("BBBBI", 2, 24, 0, 0, index) + struct.pack("HH4sHH4s", 8, 1, VIP, 8, 2, VIP)
    netlink.send(struct.pack("IHHII", 16 + len(body), 20 if add else 21, 0x605 if add else 5, 1, 0) + body)
    assert struct.unpack_from("i", netlink.recv(4096), 16)[0] == 0
    if add:
        packet.send(b"\xff" * 6 + mac + struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + mac + VIP + b"\xff" * 6 + VIP)

def received(host):  # MariaDB's applier goes on: with both threads stopped a start would purge what was received
    stop = pool.submit(run, host, f"STOP {WORD} IO_THREAD")
    while not wait([stop], 0.03).done:  # MariaDB reads a silent source for 2 s more, unless its socket is destroyed
        subprocess.run(["nsenter", f"--net=/run/netns/{host}", "ss", "-KHt", "dst", OLD], stdout=subprocess.DEVNULL)
    stop.result()
    status = run(host, f"SHOW {WORD} STATUS")
    gtids = status[[column[0] for column in clients[host].description].index("Retrieved_Gtid_Set" if MYSQL else "Gtid_IO_Pos")]
    return int(gtids.replace(":", "-").rsplit("-", 1)[-1] or 0), host, gtids

def follow(host, new):
    # MySQL may change the source while its applier runs and keeps the other options; MariaDB wants both threads stopped.
    run(host, *(() if MYSQL else ("STOP SLAVE",)), f"CHANGE {CHANGE} TO {SOURCE}_HOST='{new}'")
    applied.wait()  # MariaDB refuses, for good, a replica that asks for a transaction its source has not applied yet
    run(host, f"START {WORD}")
    step(f"{host} follows")

def promote(new, gtids):
    applying = f"SELECT WAIT_FOR_EXECUTED_GTID_SET('{gtids}')" if MYSQL else f"SELECT MASTER_GTID_WAIT('{gtids}')"
    arm = [f"SET GLOBAL rpl_semi_sync_{SOURCE_SIDE}_{what}" for what in ("wait_point=AFTER_SYNC", "timeout=4294967295", "enabled=ON")] if LOSSLESS else []
    run(new, applying)
    applied.set()
    run(new, f"STOP {WORD}", *arm, "SET GLOBAL read_only=OFF")
    step("writable")
    address(new, True)
    step("announced")
pool = ThreadPoolExecutor(2 + 2 * len(SURVIVORS))
network = {host: in_network(host) for host in (PRIMARY, *SURVIVORS)}
process = select.poll()
process.register(os.pidfd_open(int(open(f"{LAB}/{PRIMARY}/run/server.pid").read())))
list(pool.map(lambda _: time.monotonic(), range(100)))  # its threads exist before they are needed
print("ready", flush=True)
sys.stdin.readline()
started = time.monotonic()
most, new, gtids = max(pool.map(received, SURVIVORS))
step(f"{new} has most")
[job.result() for job in [pool.submit(promote, new, gtids)] + [pool.submit(follow, host, new) for host in SURVIVORS if host != new]]
process.poll(500)  # until the dead process has closed its sockets from the VIP, or hangs
address(PRIMARY, False)
run(new, f"RESET {WORD} ALL")
step("done")
print(json.dumps({"primary": new, "steps_ms": steps}))
