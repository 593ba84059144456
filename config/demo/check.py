"""Reads both Redis streams from their first entry, as any consumer would, and compares.

Independent of Kasho's own code: plain RESP over a socket, JSON entries, and psql for the
source. A row inserted twice, changed before it was inserted, or missing is named; so
is a masked value that equals its source. Exits 1 on any of them.

Usage: check.py REDIS_PORT EPOCH psql-command...
"""

import json
import socket
import subprocess
import sys

MASKED = {"public.users": ["full_name", "email", "phone"]}
DROPPED = {"public.login_log"}
KEYS = {"public.organisations", "public.users", "public.subscriptions", "public.invoices"}


class Redis:
    def __init__(self, port):
        self.file = socket.create_connection(("127.0.0.1", port)).makefile("rwb")

    def command(self, *words):
        words = [str(word).encode() for word in words]
        self.file.write(b"*%d\r\n" % len(words))
        self.file.writelines(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.file.flush()
        return self.reply()

    def reply(self):
        line = self.file.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            sys.exit(f"Redis: {rest.decode()}")
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.file.read(size + 2)[:-2].decode()
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest.decode()

    def entries(self, stream):
        start = "-"
        while page := self.command("XRANGE", stream, start, "+", "COUNT", 1000):
            for id, fields in page:
                yield id, dict(zip(fields[::2], fields[1::2]))
            start = "(" + page[-1][0]


def image(data, side):
    return {c: v for c, v in zip(data["cols"], data[side]) if v not in (True, False)}


def replay(redis, epoch, problems):
    """The tables as the streams tell them: table → key → row."""
    tables, counts = {}, {}
    for stream in (f"{{kasho}}:{epoch}:bootstrap", f"{{kasho}}:{epoch}:changes"):
        for id, entry in redis.entries(stream):
            op, name = entry["o"], entry.get("t")
            counts[op] = counts.get(op, 0) + 1
            if op in ("end", "commit", "ddl"):
                continue
            rows, data = tables.setdefault(name, {}), json.loads(entry["d"])
            old = image(data, "old") if "old" in data else None
            new = image(data, "new") if "new" in data else None
            if op in ("read", "insert"):
                if new["id"] in rows:
                    problems.append(f"{id}: {op} of {name} {new['id']}, which is there already")
                rows[new["id"]] = new
                continue
            key = (old or new)["id"]
            if key not in rows:
                problems.append(f"{id}: {op} of {name} {key}, which is not there")
            elif op == "update":
                rows[new["id"]] = rows.pop(key) | new
            elif op == "delete":
                del rows[key]
    return tables, counts


def source(psql, table):
    """Every column as its type prints it, which is what the engine publishes."""
    columns = f"SELECT string_agg(format('CASE WHEN %1$I IS NOT NULL THEN format(''%%s'', %1$I) END AS %1$I', attname), ',') FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0"
    listed = subprocess.run([*psql, "-Atc", columns], check=True, capture_output=True, text=True).stdout.strip()
    query = f"SET timezone = 'UTC'; SELECT row_to_json(t) FROM (SELECT {listed} FROM {table}) t"
    out = subprocess.run([*psql, "-qAtc", query], check=True, capture_output=True, text=True).stdout
    return {row["id"]: row for row in map(json.loads, out.splitlines())}


def main():
    port, epoch, psql = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    problems = []
    tables, counts = replay(Redis(port), epoch, problems)
    for name in sorted(DROPPED & tables.keys()):
        problems.append(f"{name} should have been dropped, and {len(tables[name])} rows left")
    for name in sorted(KEYS):
        truth, copy = source(psql, name), tables.get(name, {})
        masked = MASKED.get(name, [])
        problems += [f"{name} {key}: missing in Redis" for key in truth.keys() - copy.keys()]
        problems += [f"{name} {key}: not in the source" for key in copy.keys() - truth.keys()]
        for key in truth.keys() & copy.keys():
            for column, value in truth[key].items():
                same = copy[key].get(column) == value
                if column in masked and value is not None and same:
                    problems.append(f"{name} {key}: {column} left unmasked")
                if column not in masked and not same:
                    problems.append(f"{name} {key}: {column} differs")
        print(f"  {name:22} {len(truth):7} rows in the source, {len(copy):7} from Redis")
    print("  entries read: " + ", ".join(f"{n} {op}" for op, n in sorted(counts.items())))
    for problem in problems[:20]:
        print(f"  PROBLEM {problem}")
    print(f"  {len(problems)} problems" if problems else "  nothing lost, nothing repeated, nothing unmasked")
    sys.exit(1 if problems else 0)


main()
