"""Compares the text of every value as the load delivered it with the stream's.

Rows 1 to 1000 of each table came by COPY, the same values once more as rows 1001 and up
by the slot.

Usage: types.py REDIS_URL EPOCH
"""

import sys

import msgpack
import redis

server = redis.Redis.from_url(sys.argv[1])
seen = {"bootstrap": {}, "changes": {}}
for name, values in seen.items():
    start = "-"
    while page := server.xrange(f"{{kasho}}:{sys.argv[2]}:{name}", start, "+", 2000):
        for id, entry in one_by_one(page):
            if entry[b"o"] in (b"read", b"insert"):
                data = msgpack.unpackb(entry[b"d"])
                if "v" not in data["cols"]:
                    continue
                row = dict(zip(data["cols"], data["new"]))
                key = (entry[b"t"].decode(), (int(row["id"]) - 1) % 1000)
                values[key] = (row["v"], dict(zip(data["cols"], data["oids"]))["v"])
        start = b"(" + page[-1][0]

load, stream = seen["bootstrap"], seen["changes"]
problems = [f"{key}: only on one side" for key in load.keys() ^ stream.keys()]
for key in load.keys() & stream.keys():
    if load[key] != stream[key]:
        problems.append(f"{key}: loaded as {load[key]!r}, streamed as {stream[key]!r}")
for problem in problems[:40]:
    print("PROBLEM", problem)
print(f"{len(load)} values, {len(problems)} problems")
sys.exit(1 if problems or not load else 0)
