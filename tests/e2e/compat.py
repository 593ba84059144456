"""A client that knows nothing but the original's wire format: no reflection, no field of
ours. Asks for the bootstrap rows, goes on with live changes, reconnects by its last
position again and again, and looks whether everything came once and as it should.

    compat.py PROTO ADDRESS PACKAGE SERVICE bootstrap     the life: WAITING to STREAMING
    compat.py PROTO ADDRESS PACKAGE SERVICE read LEAP     until the row of public.done

LEAP: changes between two reconnects.
"""

import importlib
import math
import os
import sys
import tempfile
import time

import grpc
from grpc_tools import protoc

proto, address, package, service, action = sys.argv[1:6]
problems, streams = [], []


def compiled():
    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "original.proto"), "w") as file:
        file.write(proto.replace("PACKAGE", package).replace("SERVICE", service))
    made = [f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}", "original.proto"]
    if protoc.main(["protoc", *made]) != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, folder)
    stubs = importlib.import_module("original_pb2_grpc")
    return importlib.import_module("original_pb2"), getattr(stubs, f"{service}Stub")


messages, Stub = compiled()
stub = Stub(grpc.insecure_channel(address, [("grpc.max_reconnect_backoff_ms", 500)]))


def bootstrap():
    status = stub.GetStatus(messages.StatusRequest(), timeout=60)
    expect("state", status.state, "WAITING")
    started = stub.StartBootstrap(messages.StartBootstrapRequest(), timeout=60)
    expect("status", started.status, "started")
    expect("states", (started.previous_state, started.current_state), ("WAITING", "ACCUMULATING"))
    while True:
        try:
            completed = stub.CompleteBootstrap(messages.CompleteBootstrapRequest(), timeout=60)
            break
        except grpc.RpcError as error:
            expect("code", error.code(), grpc.StatusCode.FAILED_PRECONDITION)
            expect("the state in the text", "ACCUMULATING" in error.details(), True)
            time.sleep(0.1)
    expect("status", completed.status, "completed")
    expect("states", (completed.previous_state, completed.current_state), ("ACCUMULATING", "STREAMING"))
    expect("ready_to_stream", completed.ready_to_stream, True)
    status = stub.GetStatus(messages.StatusRequest(), timeout=60)
    expect("state", status.state, "STREAMING")
    expect("a position", "/" in status.start_position, True)


def expect(what, found, expected):
    if found != expected:
        problems.append(f"{what}: {found!r} where {expected!r} was due")


def value(column):
    kind = column.WhichOneof("value")
    return (kind, getattr(column, kind) if kind else None)


def read(leap):
    """Every change, by streams that are left after LEAP changes and taken up again by the
    last position; an engine that dies in between is waited for."""
    position, seen = "bootstrap", set()
    while True:
        streams.append(position)
        call = stub.Stream(messages.StreamRequest(last_position=position), timeout=100)
        try:
            for number, change in enumerate(call, 1):
                if change.position in seen:
                    problems.append(f"{change.position} came twice")
                seen.add(change.position)
                position = change.position
                yield change
                if number == leap:
                    call.cancel()
                    break
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                raise
            time.sleep(0.1)


# What each column of public.kinds has to be, whether loaded or streamed.
KINDS = {
    "i2": ("int_value", -32768),
    "i4": ("int_value", 2147483647),
    "i8": ("int_value", 9223372036854775807),
    "f4": ("float_value", 1.5),
    "f8": ("float_value", -0.1),
    "inf": ("float_value", math.inf),
    "yes": ("bool_value", True),
    "no": ("bool_value", False),
    "tz": ("timestamp_value", "2026-11-22T23:00:01.5Z"),
    "never": ("string_value", "infinity"),
    "ts": ("string_value", "2026-11-22 23:00:01.5"),
    "d": ("string_value", "2026-11-22"),
    "n": ("string_value", "12345678901234567890.1230"),
    "t": ("string_value", "zażółć\n\"\\"),
    "empty": ("string_value", ""),
    "nothing": (None, None),
    "j": ("string_value", '{"a": [1, null]}'),
    "u": ("string_value", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    "b": ("string_value", "\\x00ff"),
    "a": ("string_value", "{1,NULL,3}"),
    "m": ("string_value", "sad"),
    "big": ("string_value", "x" * 20_000),
}


def check_kinds(number, dml):
    """The changes of public.kinds, in their order."""
    names = list(dml.column_names)
    row = dict(zip(names, map(value, dml.column_values)))
    old = dict(zip(dml.old_keys.key_names, map(value, dml.old_keys.key_values)))
    has_old = dml.HasField("old_keys")
    if number in (0, 1):
        expect("kind", dml.kind, "insert")
        expect("id", row.pop("id", None), ("int_value", number + 1))
        nan = row.pop("nan", (None, 0.0))
        expect("NaN", (nan[0], math.isnan(nan[1])), ("float_value", True))
        expect(f"kinds {number}", row, KINDS)
        expect(f"old_keys of change {number}", (has_old, old), (False, {}))
    elif number == 2:
        expect("kind", dml.kind, "update")
        expect("i4", row.get("i4"), ("int_value", 5))
        expect("an unchanged TOAST value is left out", "big" in names, False)
        expect("every other column is there", len(names), len(KINDS) + 1)
        expect("which row it is", old, {"id": ("int_value", 1)})
    elif number == 3:
        expect("kind", dml.kind, "update")
        expect("a changed key", (row.get("id"), old), (("int_value", 7), {"id": ("int_value", 2)}))
    elif number == 4:
        expect("delete", (dml.kind, names, old), ("delete", [], {"id": ("int_value", 7)}))
    elif number == 5:
        expect("truncate", (dml.kind, names, has_old), ("truncate", [], False))
    else:
        problems.append(f"one change more of kinds: {dml.kind}")


def main():
    if action == "bootstrap":
        bootstrap()
        return
    loaded, streamed, kinds = [], [], 0
    for change in read(int(sys.argv[6])):
        expect("type", change.type, "dml")
        dml = change.dml
        expect("as many names as values", len(dml.column_names), len(dml.column_values))
        if dml.table == "public.ledger":
            row = dict(zip(dml.column_names, map(value, dml.column_values)))
            expect("kind", dml.kind, "insert")
            number = row["id"][1]
            (loaded if ":bootstrap:" in change.position else streamed).append(number)
        elif dml.table == "public.kinds":
            check_kinds(kinds, dml)
            kinds += 1
        elif dml.table == "public.whole" and dml.kind == "update":
            old = dict(zip(dml.old_keys.key_names, map(value, dml.old_keys.key_values)))
            expect("FULL", old, {"id": ("int_value", 1), "v": (None, None)})
        elif dml.table == "public.done":
            break
    expect("changes of kinds", kinds, 6)
    expect("the load, each row once", sorted(loaded), list(range(1, len(loaded) + 1)))
    first = len(loaded) + 1
    expect("the changes, each row once, in order", streamed, list(range(first, first + len(streamed))))
    expect("some of both", bool(loaded) and bool(streamed), True)
    expect("reconnects", len(streams) > 3, True)
    print(f"{len(loaded)} loaded, last {first + len(streamed) - 1}, {len(streams)} streams")


main()
for problem in problems[:20]:
    print("PROBLEM", problem[:2000])
sys.exit(1 if problems else 0)
