"""Compares /apply-template of `translora serve` and of a llama-server: what `scripts/check/templates
--server` runs.

usage: templates_served.py TRANSLORA LLAMA_SERVER BASE.gguf FOLDER...

Every difference has a reason here, or is one too many:

  as Jinja2   llama-server renders otherwise than Jinja2 does, and translora as Jinja2
  announced   the template writes no functions: translora lists them in the system message
  continued   the answer is gone on with, and thoughts before it are closed in other words
  refused     llama-server refuses what translora renders
"""

import contextlib
import copy
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from templates import CONVERSATIONS, TOOLS, compiled, found, jinja2_says, merged, parts

SECONDS = 60
NO_THOUGHT = {"enable_thinking": False}


class Server:
    """A server on a port of its own."""

    def __init__(self, line, log):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        port = self.url.rpartition(":")[2]
        self.log = log
        with log.open("wb") as out:
            self.child = subprocess.Popen([*line, "--port", port], stdout=out, stderr=out)

    def wait(self):
        ended = time.monotonic() + SECONDS
        while time.monotonic() < ended and self.child.poll() is None:
            with contextlib.suppress(OSError):
                return urllib.request.urlopen(f"{self.url}/health")
            time.sleep(0.02)
        sys.exit(f"error: {self.child.args[0]} does not answer: {self.log.read_text()[-2000:]}")

    def says(self, path, body=None):
        """The JSON of an answer; what is refused has `error`."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as refusal:
            return json.load(refusal)

    def end(self):
        self.child.terminate()
        self.child.wait()


def with_texts(messages):
    """The arguments of calls are JSON in a text over HTTP."""
    messages = copy.deepcopy(messages)
    for message in messages:
        for call in message.get("tool_calls") or []:
            arguments = call["function"]["arguments"]
            call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
    return messages


def requests():
    """Every request: its name, its body, and what the template is to be rendered with."""
    for name, messages in CONVERSATIONS.items():
        for answer in (True, False):
            for tools in ([], TOOLS):
                for kwargs in ({}, {"enable_thinking": True}, NO_THOUGHT):
                    body = {"messages": with_texts(messages)}
                    body |= {"tools": tools} if tools else {}
                    body |= {} if answer else {"add_generation_prompt": False}
                    body |= {"chat_template_kwargs": kwargs} if kwargs else {}
                    rendering = {"answer": answer, "tools": tools, "kwargs": kwargs or NO_THOUGHT}
                    title = f"{name}, answer {answer}, {len(tools)} tools, {kwargs}"
                    yield title, messages, body, rendering


def announced(text):
    return "These functions can be called" in text or '{"tool_calls":[' in text


def verdict(ours, theirs, jinja, messages, rendering, ends):
    """What is to be said about two answers."""
    if "error" in ours and "error" in theirs:
        return "both refuse"
    if ours == theirs:
        return "same"
    if "error" not in ours and "error" in theirs:
        return "refused"
    plain = [messages, with_texts(messages)]
    forms = plain + [fit(form) for form in plain for fit in (merged, parts)]
    right = [jinja2_says(jinja, form, rendering, ends) for form in forms]
    if "error" in ours:
        return "as Jinja2" if all("error" in text for text in right) else "different"
    text = ours["prompt"]
    if {"text": text} in right:
        return "as Jinja2"
    if announced(text):
        return "announced"
    last = messages[-1]
    begun = last["content"] if last["role"] == "assistant" else None
    if begun and text.endswith(begun) and theirs["prompt"].endswith(begun):
        return "continued"
    return "different"


def compare(file, programs, folder):
    """How many requests have each verdict, and the first that differs without a reason."""
    translora, stock, base = programs
    common = ["-m", base, "-c", "512", "-np", "1"]
    line = [stock, *common, "--jinja", "--no-webui", "--chat-template-file", file]
    theirs = Server(line, folder / "llama-server.log")
    line = [translora, "serve", "-q", *common, "--chat-template", file]
    ours = Server(line, folder / "translora.log")
    jinja, counts, first = compiled(file.read_text(encoding="utf-8")), {}, None
    try:
        theirs.wait()
        ours.wait()
        props = theirs.says("/props")
        ends = (props["bos_token"], props["eos_token"])
        for title, messages, body, rendering in requests():
            # translora does not think unless it is asked to; llama-server has to be told.
            stated = {"chat_template_kwargs": rendering["kwargs"]}
            said = [ours.says("/apply-template", body), theirs.says("/apply-template", body | stated)]
            found = verdict(*said, jinja, messages, rendering, ends)
            counts[found] = counts.get(found, 0) + 1
            if found == "different":
                first = first or (title, *said)
    finally:
        theirs.end()
        ours.end()
    return counts, first


def main():
    *programs, base = sys.argv[1:4]
    agree, totals, files = 0, {}, found(sys.argv[4:])
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            counts, first = compare(file, (*programs, base), pathlib.Path(folder))
            agree += first is None
            for name, count in counts.items():
                totals[name] = totals.get(name, 0) + count
            words = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
            print(f"{'ok ' if first is None else 'BAD'} {file.name}: {words}", flush=True)
            if first:
                title, ours, theirs = first
                print(f"    {title}\n    llama-server: {theirs}\n    translora:    {ours}")
    words = ", ".join(f"{count} {name}" for name, count in sorted(totals.items()))
    print(f"{agree} of {len(files)} templates agree; requests: {words}")
    sys.exit(0 if agree == len(files) else 1)


if __name__ == "__main__":
    main()
