"""What the scripts in Python share: where the repository is, and a build for this machine."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import NoReturn

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAB = ROOT / "tests/fixtures/lab"

LINE = '. scripts/lib/setup.sh && . scripts/lib/env.sh && cargo build "$@" >&2 && env -0'


def build(*targets: str) -> pathlib.Path:
    """Build these targets of cargo as the other scripts do, and return the folder they lie in.

    The environment of lib/env.sh holds from then on, for this process and what it starts.
    """
    command = ["bash", "-c", LINE, "bash", *targets]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE)
    if ended.returncode != 0:
        sys.exit(ended.returncode)
    for line in ended.stdout.decode().split("\0"):
        name, _, value = line.partition("=")
        if name in ("RUSTFLAGS", "GOMP_SPINCOUNT", "CARGO_TARGET_DIR", "PATH"):
            os.environ[name] = value
    return pathlib.Path(os.environ["CARGO_TARGET_DIR"]) / "debug"


def fail(message: str, hint: str = "") -> NoReturn:
    """End the script as the program ends where its input is wrong."""
    print(f"error: {message}" + (f"\nhint: {hint}" if hint else ""), file=sys.stderr)
    sys.exit(2)
