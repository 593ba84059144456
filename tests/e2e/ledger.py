"""Reads a ledger table from both Redis streams and looks for gaps, repeats and disorder.

Shares nothing with the engine: redis-py, msgpack and the layout as the README tells it.
The table's rows are numbered without gaps from 1 in commit order, so each of them must
come exactly once: those of the initial load in any order, the others in theirs.

Usage: ledger.py REDIS_URL EPOCH LAST [TABLE]
"""

import sys

import msgpack
import redis

url, epoch, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
table = sys.argv[4] if len(sys.argv) > 4 else "public.ledger"
server = redis.Redis.from_url(url)
problems = []


def entries(name):
    start = "-"
    while page := server.xrange(f"{{kasho}}:{epoch}:{name}", start, "+", 2000):
        yield from one_by_one(page)
        start = b"(" + page[-1][0]


def row(entry):
    data = msgpack.unpackb(entry[b"d"])
    return dict(zip(data["cols"], data["new"]))


loaded = set()
for id, entry in entries("bootstrap"):
    if entry[b"o"] == b"restart" and entry[b"t"].decode() == table:
        loaded.clear()
    elif entry[b"o"] == b"read" and entry[b"t"].decode() == table:
        number = int(row(entry)["id"])
        if number in loaded:
            problems.append(f"{id}: row {number} loaded twice")
        loaded.add(number)

expected = len(loaded)
if loaded != set(range(1, expected + 1)):
    problems.append(f"the load has gaps: {expected} rows, {sorted(set(range(1, max(loaded) + 1)) - loaded)[:5]}")

open_lsn, streamed = None, 0
for id, entry in entries("changes"):
    lsn = id.split(b"-")[0]
    if open_lsn not in (None, lsn):
        problems.append(f"{id}: a new transaction before the end of {open_lsn}")
    open_lsn = None if b"l" in entry or entry[b"o"] == b"commit" else lsn
    if entry[b"o"] != b"insert" or entry[b"t"].decode() != table:
        continue
    number = int(row(entry)["id"])
    streamed += 1
    if number != expected + 1:
        problems.append(f"{id}: row {number} where {expected + 1} was due")
    expected = number
if open_lsn is not None:
    problems.append(f"transaction {open_lsn} has no end")
if expected != last:
    problems.append(f"ends at row {expected}, the source at {last}")

for problem in problems[:20]:
    print("PROBLEM", problem)
print(f"loaded {len(loaded)} streamed {streamed} problems {len(problems)}")
sys.exit(1 if problems else 0)
