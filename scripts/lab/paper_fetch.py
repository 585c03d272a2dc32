"""Fetch files with curl: whole, checked, resumed where they were cut, and once."""

import hashlib
import json
import pathlib
import re
import shutil
import signal
import subprocess

# Room that a disk keeps, whatever is fetched.
FREE_BYTES_MIN = 64 << 20
TRIES = 3


class Failed(Exception):
    def __init__(self, what, hint):
        super().__init__(what)
        self.hint = hint


def sha256(path):
    sum_ = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sum_.update(chunk)
    return sum_.hexdigest()


def fetch(url, path, sum_=None, size=None):
    """The file at `url`, as `path`. A sum and a size that are not given are the server's, if it
    tells them.

    What came is noted beside it, and is what it must stay."""
    note = pathlib.Path(f"{path}.sum")
    if path.exists() and note.exists():
        known = json.loads(note.read_text())
        if path.stat().st_size != known["bytes"] or (sum_ and sum_ != known["sha256"]):
            raise Failed(f"{path} is not the file that was fetched", "remove it, and start again")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    told_sum, told_size = ask(url)
    sum_, size = sum_ or told_sum, size or told_size
    part = pathlib.Path(f"{path}.part")
    room(path.parent, size, part)
    download(url, part, size)
    if size is not None and part.stat().st_size != size:
        found = part.stat().st_size
        part.unlink()
        raise Failed(
            f"{url}: {found} bytes came, and there should be {size}",
            "start again; if it stays so, the address has another file now",
        )
    got = sha256(part)
    if sum_ and got != sum_:
        part.unlink()
        raise Failed(
            f"{url}: its sha256 is {got}, and should be {sum_}",
            "what came was removed; start again, or correct the table",
        )
    note.write_text(json.dumps({"url": url, "bytes": part.stat().st_size, "sha256": got}) + "\n")
    part.rename(path)
    return path


def curl(*words):
    try:
        return subprocess.run(
            ["curl", "--silent", "--show-error", "--location", *words],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise Failed("curl is not there", "install it: apt-get install curl") from None


def ask(url):
    """The sum and the size that a server tells. Hubs that keep large files apart give both before
    they send one elsewhere."""
    done = curl("--head", "--fail", "--max-time", "60", url)
    if done.returncode:
        raise Failed(
            f"{url}: {reason(done)}",
            "check the connection, and the address in the table of models and tasks (--table)",
        )
    headers = re.findall(r"(?im)^([a-z-]+):[ \t]*(.*?)\r?$", done.stdout)
    last = {name.lower(): value for name, value in headers}
    tag = last.get("x-linked-etag", "").strip('"')
    size = last.get("x-linked-size") or last.get("content-length")
    return (tag if re.fullmatch(r"[0-9a-f]{64}", tag) else None), (
        int(size) if size and size.isdigit() else None
    )


def room(folder, size, part):
    there = part.stat().st_size if part.exists() else 0
    free = shutil.disk_usage(folder).free
    missing = (size or 0) - there + FREE_BYTES_MIN - free
    if missing > 0:
        raise Failed(
            f"{folder}: {size} bytes do not fit: {free} are free",
            f"make {missing} bytes free, or choose another --folder",
        )


def download(url, part, size):
    for attempt in range(TRIES):
        there = part.stat().st_size if part.exists() else 0
        if size is not None and there == size:
            return
        if size is not None and there > size:
            part.unlink()
        done = curl(
            "--fail",
            "--continue-at",
            "-",
            "--connect-timeout",
            "30",
            "--speed-limit",
            "1",
            "--speed-time",
            "60",
            "--output",
            str(part),
            url,
        )
        if done.returncode == 0:
            return
        if done.returncode in (33, 36):
            # The server cannot go on in the middle.
            part.unlink(missing_ok=True)
        elif done.returncode in (23, -signal.SIGXFSZ):
            raise Failed(
                f"{part} cannot be written: {reason(done)}",
                "is the disk full? What came is kept; make room and start again",
            )
        elif done.returncode == 22:
            raise Failed(
                f"{url}: {reason(done)}",
                "check the address in the table of models and tasks (--table)",
            )
    came = part.stat().st_size if part.exists() else 0
    told = f" of {size}" if size is not None else ""
    raise Failed(
        f"{url}: cut after {came}{told} bytes, {TRIES} times: {reason(done)}",
        "what came is kept: start again to go on from there",
    )


def reason(done):
    return (done.stderr.strip().splitlines() or [f"curl ended with {done.returncode}"])[-1]
