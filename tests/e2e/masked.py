"""Reads a masked table back: every value must be one of the constants that the rules
named, and all rows of one transaction must carry the same one.

Usage: masked.py REDIS_URL EPOCH TABLE COLUMN PREFIX
Prints how many transactions each constant was seen in.
"""

import collections
import sys

import msgpack
import redis

url, epoch, table, column, prefix = sys.argv[1:]
server = redis.Redis.from_url(url)
problems, by_transaction = [], collections.defaultdict(set)
for name in ("bootstrap", "changes"):
    start = "-"
    while page := server.xrange(f"{{kasho}}:{epoch}:{name}", start, "+", 2000):
        for id, entry in one_by_one(page):
            if entry.get(b"t", b"").decode() != table or b"d" not in entry:
                continue
            data = msgpack.unpackb(entry[b"d"])
            for side in ("new", "old"):
                row = dict(zip(data["cols"], data.get(side, [])))
                value = row.get(column)
                if isinstance(value, str):
                    if not value.startswith(prefix):
                        problems.append(f"{name} {id}: {side} {column} left unmasked")
                    if name == "changes":
                        by_transaction[id.split(b"-")[0]].add((value, entry[b"g"]))
        start = b"(" + page[-1][0]
mixed = [lsn for lsn, seen in by_transaction.items() if len(seen) > 1]
problems += [f"transaction {lsn}: {by_transaction[lsn]}" for lsn in mixed]
for problem in problems[:20]:
    print("PROBLEM", problem)
constants = collections.Counter(value for seen in by_transaction.values() for value, _ in seen)
print(f"{len(by_transaction)} transactions, {len(constants)} constants, {len(problems)} problems")
sys.exit(1 if problems else 0)
