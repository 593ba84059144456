"""Applies both Redis streams to empty tables, with no key and no mercy, and prints them.

Shares nothing with the engine: redis-py, msgpack and the layout as the README tells it. A
row is found by every value that its entry gives for it, and must be found exactly once; a
row that is inserted must not be there. Load points are heeded.

Usage: replay.py REDIS_URL EPOCH TABLE,…
Prints JSON: {"tables": {table: [row, …]}, "ops": {table: {op: count}}, "columns": {table: […]}}
"""

import collections
import json
import sys

import msgpack
import redis

url, epoch, names = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
server = redis.Redis.from_url(url)
tables = {name: [] for name in names}
ops = collections.defaultdict(collections.Counter)
columns, problems, points = {}, [], {}


def entries(name):
    start = "-"
    while page := server.xrange(f"{{kasho}}:{epoch}:{name}", start, "+", 2000):
        yield from one_by_one(page)
        start = b"(" + page[-1][0]


def number(lsn):
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)


def find(where, name, known):
    """The place of the one row that has all these values."""
    found = [at for at, row in enumerate(tables[name]) if known.items() <= row.items()]
    if len(found) != 1:
        problems.append(f"{where}: {len(found)} rows where one was due")
        return None
    return found[0]


def image(data, which):
    return {c: v for c, v in zip(data["cols"], data[which]) if v is not False}


def insert(where, name, data):
    row = image(data, "new")
    if True in row.values() or row in tables[name]:
        problems.append(f"{where}: an insert of what is there, or not all of it")
    columns[name] = data["cols"]
    tables[name].append(row)


def update(where, name, data):
    if "old" in data:
        known = image(data, "old")
    else:
        known = {data["cols"][place]: data["new"][place] for place in data["key"]}
    at = find(where, name, known)
    if at is not None:
        new = {c: v for c, v in image(data, "new").items() if v is not True}
        tables[name][at] = tables[name][at] | new


def delete(where, name, data):
    at = find(where, name, image(data, "old"))
    if at is not None:
        del tables[name][at]


for id, entry in entries("bootstrap"):
    op, name, data = entry[b"o"].decode(), entry.get(b"t", b"").decode(), msgpack.unpackb(entry[b"d"])
    ops[name][op] += 1
    if op == "end":
        points = {table: number(lsn) for table, lsn in data["load_points"].items()}
        break
    if op == "restart" and name in tables:
        tables[name].clear()
    elif op == "read" and name in tables:
        insert(f"bootstrap {id}", name, data)
for id, entry in entries("changes"):
    op, data = entry[b"o"].decode(), msgpack.unpackb(entry[b"d"])
    for name in data.get("tables", [entry.get(b"t", b"").decode()]):
        ops[name][op] += 1
        if name not in tables or int(id.split(b"-")[0]) < points.get(name, 0):
            continue
        if op == "truncate":
            tables[name].clear()
        else:
            {"insert": insert, "update": update, "delete": delete}[op](f"{id} {name} {op}", name, data)

for problem in problems[:20]:
    print("PROBLEM", problem, file=sys.stderr)
rows = {
    name: sorted("|".join("\\N" if v is None else v for v in row.values()) for row in table)
    for name, table in tables.items()
}
print(json.dumps({"tables": rows, "ops": ops, "columns": columns}))
sys.exit(1 if problems else 0)
