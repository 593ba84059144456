"""Looks whether the container's files say the same as one another and as the document:
names, paths, ports. No container engine is needed to be wrong about those.

    container.py FOLDER     prints the health check as a JSON list
"""

import json
import pathlib
import re
import sys
import tomllib

import yaml

folder = pathlib.Path(sys.argv[1])
compose = yaml.safe_load((folder / "container/compose.yaml").read_text())
settings = tomllib.loads((folder / "container/kasho.toml").read_text())
install = (folder / "container/install.sh").read_text()
dockerfile = (folder / "container/Dockerfile").read_text()
unit = (folder / "kasho.service").read_text().splitlines()
problems = []


def expect(what, found, expected):
    if found != expected:
        problems.append(f"{what}: {found!r} where {expected!r} was due")


# The Dockerfile's instructions, continued lines joined, comments left out.
lines = "\n".join(line for line in dockerfile.splitlines() if not line.startswith("#"))
instructions = [line.split(None, 1) for line in lines.replace("\\\n", " ").splitlines() if line.strip()]


def last(word):
    return next((rest for name, rest in reversed(instructions) if name == word), "")


expect("project", compose["name"], "kasho")
expect("services", sorted(compose["services"]), ["pg-change-stream", "pg-translicator", "redis"])
engine, redis = compose["services"]["pg-change-stream"], compose["services"]["redis"]
applier = compose["services"]["pg-translicator"]
applying = tomllib.loads((folder / "container/translicator.toml").read_text())
expect("build context", (folder / "container" / engine["build"]["context"]).resolve(), folder.parent.resolve())
expect("Dockerfile", (folder.parent / engine["build"]["dockerfile"]).resolve(), (folder / "container/Dockerfile").resolve())

# The image: working folder, programs, user, ports.
expect("WORKDIR", last("WORKDIR"), "/app")
expect("the script goes into the working folder", "APP=/app " in dockerfile, True)
names = set(re.search(r"for name in ([a-z -]+); do", install)[1].split()) | {"kasho"}
expect("CMD", json.loads(last("CMD"))[0] in names, True)
expect("compose command", engine["command"][0] in names, True)
expect("the document's names", {"pg-change-stream", "pg-bootstrap-sync", "pg-translicator"} <= names, True)
expect("USER", last("USER"), "kasho")
runs = [rest for name, rest in instructions if name == "RUN"]
expect("the user exists", any("useradd" in run and run.split()[-1] == "kasho" for run in runs), True)
expect("pg_dump 18", any("postgresql-client-18" in run for run in runs), True)
expect("its key is a file", any("[signed-by=/usr/share/" in run for run in runs), True)
ports = {int(settings[section]["listen"].rsplit(":", 1)[1]) for section in ("grpc", "http")}
expect("EXPOSE", set(map(int, last("EXPOSE").split())), ports)
expect("the document's port", settings["grpc"]["listen"].endswith(":50051"), True)
health = json.loads(last("HEALTHCHECK").split("CMD", 1)[1])
http = settings["http"]["listen"].rsplit(":", 1)[1]
expect("health check", f"/dev/tcp/127.0.0.1/{http}" in health[-1] and "/livez" in health[-1], True)

ignored = (folder / "container/Dockerfile.dockerignore").read_text().split()
expect("the build takes no output along", {"target", ".git"} <= set(ignored), True)

# What is mounted is what is read and written.
config = dict(pair.split("=", 1) for pair in last("ENV").split())["KASHO_CONFIG"]
mounts = {mount["source"]: mount["target"] for mount in engine["configs"]}
expect("the configuration", mounts["kasho"], config)
expect("its file", (folder / "container" / compose["configs"]["kasho"]["file"]).exists(), True)
secret = pathlib.PurePath(settings["source"]["url_file"])
expect("the secret", (str(secret.parent), secret.name in engine["secrets"]), ("/run/secrets", True))
expect("secrets are files", all(set(s) == {"file"} for s in compose["secrets"].values()), True)
volumes = [volume.split(":")[1] for volume in engine["volumes"]]
expect("the state is a volume", volumes, [last("VOLUME")])
expect("the store is in it", settings["plugins"]["store"].startswith(last("VOLUME") + "/"), True)
expect("plugins", settings["plugins"]["folder"], str(pathlib.PurePath(config).parent / "plugins"))

# The applier: the same image in a profile of its own, and no less shut in.
expect("it is not started without a target", applier["profiles"], ["target"])
expect("its program", applier["command"], ["pg-translicator"])
for key in ("image", "restart", "init", "networks", "read_only", "tmpfs", "cap_drop", "security_opt", "ulimits"):
    expect(f"its {key}", applier[key], engine[key])
expect("its configuration", applier["configs"], [{"source": "translicator", "target": config}])
expect("its file", compose["configs"]["translicator"]["file"], "./translicator.toml")
for section, key in (("source", "url_file"), ("apply", "target_file")):
    path = pathlib.PurePath(applying[section][key])
    expect(f"the secret of {section}", (str(path.parent), path.name in applier["secrets"]), ("/run/secrets", True))
    expect(f"its file of {section}", path.name in compose["secrets"], True)
expect("its Redis", applying["redis"], settings["redis"])
asked = applier["healthcheck"]["test"]
port = applying["apply"]["listen"].rsplit(":", 1)[1]
expect("its health check", asked, ["CMD", *(part.replace(f"/{http}", f"/{port}") for part in health)])

# Redis: as the engine wants it, and reachable by nobody else.
expect("its address", settings["redis"]["url"], "redis://redis:6379")
words = redis["command"]
options = dict(zip(words[1::2], words[2::2]))
expect("appendonly", options["--appendonly"], "yes")
expect("eviction", options["--maxmemory-policy"], "noeviction")
expect("it keeps its data", [volume.split(":")[1] for volume in redis["volumes"]], ["/data"])
expect("networks", (redis["networks"], compose["networks"]["private"]["internal"]), (["private"], True))
expect("no port is published", [name for name, s in compose["services"].items() if "ports" in s], [])
expect("insecure only without published ports", settings["grpc"]["insecure"], True)

# systemd's unit: the same program and the same folders.
values = dict(line.split("=", 1) for line in unit if "=" in line and not line.startswith("#"))
expect("ExecStart", values["ExecStart"], "/usr/local/bin/kasho run")
expect("Type", (values["Type"], values["NotifyAccess"]), ("notify", "main"))
expect("the state", f"/var/lib/{values['StateDirectory']}", last("VOLUME"))
expect("the watchdog is set", int(values["WatchdogSec"]) > 0, True)
expect("the holder outlives the service", values["KillMode"], "process")
expect("writable and executable memory is for plugins", "MemoryDenyWriteExecute" in values, False)

for problem in problems:
    print("PROBLEM", problem, file=sys.stderr)
print(json.dumps(health))
sys.exit(1 if problems else 0)
