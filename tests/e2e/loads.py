"""Compares two loads row by row, and both with what COPY says.

Every `read` entry of both bootstrap streams, whatever its order, must be the same: table,
columns, types, values. CATALOG is a JSON file: {table: {"columns": […], "file": COPY text}}.

Usage: loads.py REDIS_URL EPOCH FILE            keeps a load in a file
       loads.py REDIS_URL EPOCH FILE CATALOG    compares this load with it
"""

import collections
import json
import pickle
import re
import sys

import msgpack
import redis

ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def load(url, epoch):
    server, rows = redis.Redis.from_url(url), collections.Counter()
    start = "-"
    while page := server.xrange(f"{{kasho}}:{epoch}:bootstrap", start, "+", 2000):
        for id, entry in one_by_one(page):
            if entry[b"o"] == b"read":
                data = msgpack.unpackb(entry[b"d"])
                rows[(entry[b"t"].decode(), tuple(data["cols"]), tuple(data["oids"]), tuple(data["new"]))] += 1
        start = b"(" + page[-1][0]
    return rows


def field(text):
    if text == "\\N":
        return None
    return re.sub(r"\\(.)", lambda found: ESCAPES.get(found[1], found[1]), text, flags=re.S)


def copied(catalog):
    rows = collections.Counter()
    for table, found in catalog.items():
        with open(found["file"], encoding="utf-8", newline="\n") as file:
            for line in file:
                rows[(table, tuple(found["columns"]), tuple(map(field, line.rstrip("\n").split("\t"))))] += 1
    return rows


second = load(*sys.argv[1:3])
if len(sys.argv) == 4:
    with open(sys.argv[3], "wb") as file:
        pickle.dump(second, file)
    sys.exit(0)
with open(sys.argv[3], "rb") as file:
    first = pickle.load(file)
problems = [f"only in the first: {row}" for row in first - second]
problems += [f"only in the second: {row}" for row in second - first]
with open(sys.argv[4], encoding="utf-8") as file:
    expected = copied(json.load(file))
found = collections.Counter()
for (table, columns, _, values), count in first.items():
    found[(table, columns, values)] += count
problems += [f"not loaded: {row}" for row in expected - found]
problems += [f"not in the source: {row}" for row in found - expected]
for problem in problems[:30]:
    print("PROBLEM", problem)
print(f"{first.total()} rows, {len({row[0] for row in first})} tables, {len(problems)} problems")
sys.exit(1 if problems or not first else 0)
