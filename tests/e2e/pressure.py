"""A consumer group that reads the load and then the changes, acknowledges what it has
read, and complains of gaps, repeats and disorder: what is trimmed behind it is gone, so
it has to look while it reads.

    pressure.py REDIS_URL NAME LAST
"""

import sys
import time

import msgpack
import redis

url, name, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
server = redis.Redis.from_url(url)
problems, loaded = [], set()


def read(stream):
    """Every entry once; acknowledged a page at a time."""
    key = f"{{kasho}}:1:{stream}"
    quiet = time.monotonic()
    while True:
        pages = server.xreadgroup(name, "one", {key: ">"}, count=200, block=1000)
        if not pages:
            if time.monotonic() - quiet > 100:
                problems.append(f"nothing more comes in {stream}")
                return
            continue
        quiet = time.monotonic()
        entries = pages[0][1]
        yield from one_by_one(entries)
        server.xack(key, name, *[id for id, _ in entries])


def number(entry):
    data = msgpack.unpackb(entry[b"d"])
    return int(dict(zip(data["cols"], data["new"]))["id"])


for id, entry in read("bootstrap"):
    if entry[b"o"] == b"end":
        break
    row = number(entry)
    if row in loaded:
        problems.append(f"{id}: row {row} loaded twice")
    loaded.add(row)
if loaded != set(range(1, len(loaded) + 1)):
    problems.append(f"the load of {len(loaded)} rows has gaps")

expected = len(loaded)
for id, entry in read("changes"):
    row = number(entry)
    if row != expected + 1:
        problems.append(f"{id}: row {row} where {expected + 1} was due")
    expected = row
    if row >= last:
        break
if expected != last:
    problems.append(f"ends at row {expected}, the source at {last}")
for problem in problems[:20]:
    print("PROBLEM", problem)
print(f"loaded {len(loaded)} streamed {expected - len(loaded)} problems {len(problems)}")
sys.exit(1 if problems else 0)
