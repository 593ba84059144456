"""Builds tables from both Redis streams and tells what they hold, by the rules of the README.

Shares nothing with the engine: redis-py, msgpack and the rules for readers. It is strict:
a row that is inserted twice, or changed or deleted without being there, is a problem.

Usage: points.py REDIS_URL EPOCH TABLE...      (a table's key is its first column)

A table named with a + joined the publication later: its changes count from where it is
loaded, for before that nobody has the rows that they change.
"""

import hashlib
import sys

import msgpack
import redis

url, epoch, names = sys.argv[1], sys.argv[2], [name.lstrip("+") for name in sys.argv[3:]]
joined = {name[1:] for name in sys.argv[3:] if name.startswith("+")}
server = redis.Redis.from_url(url)
tables = {name: {} for name in names}
problems, restarts, skipped = [], [], 0


def entries(name, start="-"):
    while page := server.xrange(f"{{kasho}}:{epoch}:{name}", start, "+", 2000):
        yield from one_by_one(page)
        start = b"(" + page[-1][0]


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def image(data, which):
    """The columns that are part of an image, without those that did not change."""
    return {c: v for c, v in zip(data["cols"], data[which]) if not isinstance(v, bool)}


def key(data, which):
    return data[which][0]


def insert(where, name, data):
    rows = tables[name]
    if key(data, "new") in rows:
        problems.append(f"{where}: {name} {key(data, 'new')} is there already")
    rows[key(data, "new")] = image(data, "new")


def update(where, name, data):
    rows = tables[name]
    before = key(data, "old") if "old" in data else key(data, "new")
    if before not in rows:
        problems.append(f"{where}: {name} {before} is updated and not there")
    rows[key(data, "new")] = rows.pop(before, {}) | image(data, "new")


def delete(where, name, data):
    if tables[name].pop(key(data, "old"), None) is None:
        problems.append(f"{where}: {name} {key(data, 'old')} is deleted and not there")


def load(start):
    """Reads the bootstrap stream from `start` to the next end; answers its load points."""
    for id, entry in entries("bootstrap", start):
        op, name = entry[b"o"].decode(), entry.get(b"t", b"").decode()
        data = msgpack.unpackb(entry[b"d"])
        if op == "end":
            return {name: lsn(text) for name, text in data["load_points"].items()}
        if op == "restart":
            restarts.append(f"{name}:{data['attempt']}")
            if name in tables:
                tables[name].clear()
        elif name in tables:
            insert(f"bootstrap {id}", name, data)
    problems.append(f"the load from {start} has no end")
    return {}


points = load("-")
sections = 0
for id, entry in entries("changes"):
    op, at = entry[b"o"].decode(), int(id.split(b"-")[0])
    data = msgpack.unpackb(entry[b"d"])
    if op == "restart":
        # Tables are loaded again here: their section of the bootstrap stream comes first.
        for name in data["tables"]:
            joined.discard(name)
            if name in tables:
                tables[name].clear()
        points = load(str(data["section"]))
        sections += 1
        continue
    for name in data.get("tables", [entry.get(b"t", b"").decode()]):
        if name not in tables or name in joined:
            continue
        if at < points.get(name, 0):
            skipped += 1
        elif op == "truncate":
            tables[name].clear()
        else:
            {"insert": insert, "update": update, "delete": delete}[op](id, name, data)

for name, rows in tables.items():
    lines = ["|".join("\\N" if v is None else v for v in row.values()) for row in rows.values()]
    digest = hashlib.md5("\n".join(sorted(lines)).encode()).hexdigest()
    print(f"TABLE {name} {len(rows)} {digest}")
for problem in problems[:20]:
    print("PROBLEM", problem)
print("RESTARTS", *restarts)
print(f"sections {sections} skipped {skipped} problems {len(problems)}")
sys.exit(1 if problems else 0)
