# Put before programs that use it: entries of the streams, those of several rows of the load as
# if each row had its own. Such an entry has the number of the last of them.
def one_by_one(entries):
    import msgpack

    for id, entry in entries:
        if entry[b"o"] != b"rows":
            yield id, entry
            continue
        data = msgpack.unpackb(entry[b"d"])
        rows = data.pop("rows")
        last = int(id.split(b"-")[0])
        for number, row in enumerate(rows, last - len(rows) + 1):
            yield b"%d-1" % number, {**entry, b"o": b"read", b"d": msgpack.packb({**data, "new": row})}


