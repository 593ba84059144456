"""Reads /metrics as Prometheus does, with its own client library's parser, and complains of
what its linter complains of.

    metrics.py URL

Prints the samples as one JSON object, "name{label=value,...}" to value.
"""

import json
import sys
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

with urllib.request.urlopen(sys.argv[1], timeout=60) as response:
    kind = response.headers["content-type"]
    text = response.read().decode()
problems = []
if not kind.startswith("text/plain; version=0.0.4"):
    problems.append(f"content type {kind}")
if not text.endswith("\n"):
    problems.append("the last line does not end")
helped = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
if len(helped) != len(set(helped)):
    problems.append("a family stands there twice")

samples, families = {}, list(text_string_to_metric_families(text))
for family in families:
    name = family.name
    if not name.startswith("kasho_"):
        problems.append(f"{name}: not one of ours")
    if not family.documentation.strip() or not family.documentation.endswith("."):
        problems.append(f"{name}: no help")
    if family.type not in ("counter", "gauge", "histogram"):
        problems.append(f"{name}: type {family.type}")
    # What "promtool check metrics" asks for: base units, and _total for counters alone.
    for unit in ("milliseconds", "_ms", "_kib", "_mib", "_minutes", "_percent"):
        if unit in name:
            problems.append(f"{name}: {unit} is no base unit")
    if family.type != "counter" and name.endswith(("_total", "_count", "_sum", "_bucket")):
        problems.append(f"{name}: a suffix that is reserved")
    if not family.samples:
        problems.append(f"{name}: no sample")
    for sample in family.samples:
        if family.type == "counter" and not sample.name.endswith("_total"):
            problems.append(f"{sample.name}: a counter without _total")
        labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
        key = f"{sample.name}{{{labels}}}"
        if key in samples:
            problems.append(f"{key} stands there twice")
        if sample.value < 0:
            problems.append(f"{key} is negative")
        samples[key] = sample.value
    if family.type == "histogram":
        series = {}
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k != "le"}
            one = series.setdefault(json.dumps(labels, sort_keys=True), {"buckets": []})
            if sample.name.endswith("_bucket"):
                one["buckets"].append((float(sample.labels["le"]), sample.value))
            else:
                one[sample.name.removeprefix(name)] = sample.value
        for labels, one in series.items():
            counts = [count for _, count in sorted(one["buckets"])]
            if counts != sorted(counts) or one["buckets"][-1][0] != float("inf"):
                problems.append(f"{name}{labels}: buckets are not cumulative")
            if counts[-1] != one["_count"]:
                problems.append(f"{name}{labels}: the last bucket is not the count")

if len(helped) != len(families):
    problems.append(f"{len(helped)} families have help, {len(families)} were read")
for problem in problems:
    print("PROBLEM", problem, file=sys.stderr)
print(json.dumps(samples))
sys.exit(1 if problems else 0)
