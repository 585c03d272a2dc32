"""Compares two runs of llama.cpp's server tests, without the library and with it: what
scripts/check/attach-tests prints."""

import sys
import xml.etree.ElementTree as xml
from collections import Counter


def outcomes(file):
    found = {}
    for case in xml.parse(file).iter("testcase"):
        bad = case.find("failure") is not None or case.find("error") is not None
        state = "skipped" if case.find("skipped") is not None else "failed" if bad else "passed"
        name = (case.get("classname").split(".")[1], case.get("name"))
        # A case whose end fails is listed twice.
        found[name] = max(state, found.get(name, state), key=["passed", "skipped", "failed"].index)
    return found


without, with_library = outcomes(sys.argv[1]), outcomes(sys.argv[2])
files, counts = [], Counter()
for name in without:
    if name[0] not in files:
        files.append(name[0])
    counts[name[0], "cases"] += without[name] != "skipped"
    counts[name[0], "without"] += without[name] == "passed"
    counts[name[0], "with"] += with_library.get(name) == "passed"
print("| file | cases | pass without | pass with |\n|---|---|---|---|")
for file in files:
    print(
        f"| {file} | {counts[file, 'cases']} | {counts[file, 'without']} | {counts[file, 'with']} |"
    )
columns = [
    sum(n for (_, column), n in counts.items() if column == wanted)
    for wanted in ("cases", "without", "with")
]
print("| all | " + " | ".join(map(str, columns)) + " |")
lost = [
    name
    for name, state in without.items()
    if state == "passed" and with_library.get(name) != "passed"
]
won = [
    name
    for name, state in with_library.items()
    if state == "passed" and without.get(name) != "passed"
]
if won:
    print(
        "\nwithout it only, these failed: " + "; ".join(f"{file}: {name}" for file, name in won),
        file=sys.stderr,
    )
if lost:
    sys.exit("with it only, these failed: " + "; ".join(f"{file}: {name}" for file, name in lost))
