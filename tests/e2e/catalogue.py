"""Applies what Redis holds of some tables, as a consumer does, and prints the rows that are
left as SQL: for each table T an INSERT into landed_T.

Usage: catalogue.py REDIS_URL EPOCH TABLE=KEY…
"""

import sys

import msgpack
import redis

server = redis.Redis.from_url(sys.argv[1])
keys = dict(argument.split("=") for argument in sys.argv[3:])
rows = {table: {} for table in keys}
for name in ("bootstrap", "changes"):
    start = "-"
    while page := server.xrange(f"{{kasho}}:{sys.argv[2]}:{name}", start, "+", 2000):
        for id, entry in one_by_one(page):
            table = entry.get(b"t", b"").decode()
            if table not in keys or b"d" not in entry:
                continue
            data = msgpack.unpackb(entry[b"d"])
            new = dict(zip(data["cols"], data.get("new", [])))
            old = dict(zip(data["cols"], data.get("old", [])))
            key, op = keys[table], entry[b"o"].decode()
            if op == "delete":
                # A row that is not there was sent under another identity.
                del rows[table][old[key]]
                continue
            was = rows[table].pop(old.get(key) or new[key], None)
            if op == "update" and was is None:
                sys.exit(f"{id}: update of a row of {table} that is not there")
            sent = {k: v for k, v in new.items() if not isinstance(v, msgpack.ExtType)}
            rows[table][new[key]] = {**(was or {}), **sent}
        start = b"(" + page[-1][0]


def literal(value):
    return "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"


for table, found in rows.items():
    for row in found.values():
        names = ", ".join(row)
        values = ", ".join(literal(value) for value in row.values())
        print(f"INSERT INTO landed_{table.split('.')[1]} ({names}) VALUES ({values});")
