"""Whether an answer is right."""

import os
import pathlib
import re
import resource
import secrets
import signal
import subprocess
import sys
import tempfile

CODE_SECONDS = 10
CODE_BYTES = 1 << 30


def exact(answer, right, _=None):
    return answer.strip() == right.strip()


def number_of(text):
    """The first number after the last `####`, else the last number. Commas between digits and a
    closing point are no part of it."""
    _, mark, tail = text.rpartition("####")
    found = re.findall(r"-?\d[\d,]*(?:\.\d+)?", tail)
    return float(found[0 if mark else -1].replace(",", "")) if found else None


def number(answer, right, _=None):
    found = number_of(answer)
    return found is not None and found == number_of(right)


def code_of(answer):
    """What stands in a fence, if there is one."""
    fenced = re.search(r"```(?:python)?[ \t]*\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    return fenced.group(1) if fenced else answer


def limit():
    resource.setrlimit(resource.RLIMIT_CPU, (CODE_SECONDS, CODE_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (CODE_BYTES, CODE_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def code(answer, _right, tests):
    """The tests pass on what the answer defines, in a process of its own with limits. Only called
    with --allow-code."""
    done = secrets.token_hex()
    with tempfile.TemporaryDirectory() as folder:
        file, said = pathlib.Path(folder) / "answer.py", pathlib.Path(folder) / "said"
        file.write_text(f"{code_of(answer)}\n\n{tests}\nprint({done!r})\n", encoding="utf-8")
        # No environment, no standard input, a folder of its own: it has nothing of this process but
        # the machine.
        with open(said, "wb") as out:
            child = subprocess.Popen(
                [sys.executable, "-I", file],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=limit,
            )
        try:
            child.wait(CODE_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            end(child)
        return child.returncode == 0 and said.read_bytes().rstrip().endswith(done.encode())


def end(child):
    """End a process and what it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


METRICS = {"exact": exact, "number": number, "code": code}
