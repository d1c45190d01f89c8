"""Set up replication in a fresh lab, over the servers' unix sockets.

seed.py ping SOCKET                          is a server answering there?
seed.py wait LAB HOST…                       until all answer
seed.py replicate LAB FLAVOR SEMISYNC HOST…  every host but the first follows its source (HOST or HOST:SOURCE), the
                                             first is opened; SEMISYNC is lossless or none
seed.py repointed LAB FLAVOR PRIMARY HOST…   print the hosts that do not replicate from PRIMARY with both threads running

Knows nothing of manager or agents, and is never used in a failover.
"""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pymysql
from pymysql.cursors import DictCursor

DEADLINE_S = 60


def connect(lab, host):
    return pymysql.connect(unix_socket=f"{lab}/{host}/run/server.sock", user="root", autocommit=True, cursorclass=DictCursor)


def connect_when_up(lab, host):
    end = time.monotonic() + DEADLINE_S
    while True:
        try:
            return connect(lab, host)
        except pymysql.err.OperationalError as error:
            if time.monotonic() > end:
                sys.exit(f"{host} does not answer after {DEADLINE_S} s: {error}; see {lab}/{host}/run/error.log")
            time.sleep(0.01)


def run(connection, *statements):
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall()


def follow(flavor, source, password):
    """The statements that make a server a replica of `source` (not started)."""
    if flavor == "mysql":
        return (
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST='{source}', SOURCE_PORT=3306, SOURCE_USER='mha_repl',"
            f" SOURCE_PASSWORD='{password}', SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1,"
            " SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=86400, SOURCE_HEARTBEAT_PERIOD=0.5",
        )
    return (
        f"CHANGE MASTER TO MASTER_HOST='{source}', MASTER_PORT=3306, MASTER_USER='mha_repl',"
        f" MASTER_PASSWORD='{password}', MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=0.5",
    )


def semisync(flavor, side):
    if flavor == "mysql":
        if side == "replica":
            return ("SET GLOBAL rpl_semi_sync_replica_enabled=ON",)
        return (
            "SET GLOBAL rpl_semi_sync_source_timeout=4294967295",
            "SET GLOBAL rpl_semi_sync_source_wait_point=AFTER_SYNC",
            "SET GLOBAL rpl_semi_sync_source_enabled=ON",
        )
    if side == "replica":
        return ("SET GLOBAL rpl_semi_sync_slave_enabled=ON",)
    return (
        "SET GLOBAL rpl_semi_sync_master_timeout=4294967295",
        "SET GLOBAL rpl_semi_sync_master_wait_point=AFTER_SYNC",
        "SET GLOBAL rpl_semi_sync_master_enabled=ON",
    )


def replica_status(connection, flavor):
    rows = run(connection, "SHOW REPLICA STATUS" if flavor == "mysql" else "SHOW SLAVE STATUS")
    row = rows[0] if rows else {}
    old, new = ("Master", "Slave"), ("Source", "Replica")
    first, second = new if flavor == "mysql" else old
    return row.get(f"{first}_Host"), row.get(f"{second}_IO_Running") == "Yes" and row.get(f"{second}_SQL_Running") == "Yes"


def replicate(lab, flavor, level, members):
    with open(f"{lab}/secrets/replication", encoding="ascii") as file:
        password = file.read()
    primary = members[0]

    def one(member):
        host, _, source = member.partition(":")
        connection = connect_when_up(lab, host)
        if member != primary:
            if level == "lossless":
                run(connection, *semisync(flavor, "replica"))
            start = "START REPLICA" if flavor == "mysql" else "START SLAVE"
            run(connection, *follow(flavor, source or primary, password), start)
        return connection

    with ThreadPoolExecutor(len(members)) as pool:
        connections = list(pool.map(one, members))
    if level == "lossless":
        run(connections[0], *semisync(flavor, "source"))
    run(connections[0], "SET GLOBAL super_read_only=OFF" if flavor == "mysql" else "SET GLOBAL read_only=OFF", "SET GLOBAL read_only=OFF")
    end = time.monotonic() + DEADLINE_S
    for member, connection in zip(members[1:], connections[1:]):
        while not replica_status(connection, flavor)[1]:
            if time.monotonic() > end:
                sys.exit(f"{member} does not replicate after {DEADLINE_S} s")
            time.sleep(0.01)


def main():
    verb, *rest = sys.argv[1:]
    if verb == "ping":
        pymysql.connect(unix_socket=rest[0], user="root").close()
    elif verb == "wait":
        for host in rest[1:]:
            connect_when_up(rest[0], host).close()
    elif verb == "replicate":
        replicate(rest[0], rest[1], rest[2], rest[3:])
    elif verb == "repointed":
        lab, flavor, primary, *hosts = rest
        for host in hosts:
            try:
                if replica_status(connect(lab, host), flavor) != (primary, True):
                    print(host)
            except pymysql.err.Error:
                print(host)
    else:
        sys.exit(__doc__)


main()
