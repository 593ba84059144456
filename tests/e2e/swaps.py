"""Reads the changes of public.people back, whose rows are numbered without gaps from 1 in
commit order and whose e-mails are constants that name the rules: says of each transaction
which constant and which generation how many rows of it carry.

Shares nothing with the engine: redis-py, msgpack and the layout as the README tells it.

Usage: swaps.py REDIS_URL EPOCH
Prints `transaction constant generation rows` for each run of rows; PROBLEM for a row that
is lost, repeated or not masked, and for a transaction with two generations.
"""

import itertools
import sys

import msgpack
import redis

url, epoch = sys.argv[1:]
server = redis.Redis.from_url(url)
problems, rows, expected, start, open_lsn = [], [], 1, "-", None
while page := server.xrange(f"{{kasho}}:{epoch}:changes", start, "+", 2000):
    for id, entry in page:
        lsn = id.split(b"-")[0]
        if open_lsn not in (None, lsn):
            problems.append(f"{id}: a new transaction before the end of {open_lsn}")
        open_lsn = None if b"l" in entry or entry[b"o"] == b"commit" else lsn
        if entry[b"o"] != b"insert":
            continue
        data = msgpack.unpackb(entry[b"d"])
        row = dict(zip(data["cols"], data["new"]))
        if int(row["id"]) != expected:
            problems.append(f"{id}: row {row['id']} where {expected} was due")
        if not row["email"].startswith("gen-"):
            problems.append(f"{id}: row {row['id']} is not masked")
        expected = int(row["id"]) + 1
        rows.append((lsn, row["email"], int(entry[b"g"])))
    start = b"(" + page[-1][0]
if open_lsn is not None:
    problems.append(f"transaction {open_lsn} has no end")
number = 0
for lsn, transaction in itertools.groupby(rows, key=lambda row: row[0]):
    number += 1
    runs = [(run[1], run[2], len(list(same))) for run, same in itertools.groupby(transaction)]
    for constant, generation, count in runs:
        print(number, constant, generation, count)
    if len(runs) > 1:
        problems.append(f"{len(runs)} generations in transaction {number}")
for problem in problems[:20]:
    print("PROBLEM", problem)
sys.exit(1 if problems else 0)
