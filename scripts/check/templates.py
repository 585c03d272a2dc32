"""Renders conversations with Jinja2 and with translora-chat, and says where they differ.

Jinja2 is set up as in `transformers.PreTrainedTokenizer.apply_chat_template`.
"""

import copy
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = int(time.time())
NOON = 43_200
BOS, EOS = "<s>", "</s>"
FEATURES = pathlib.Path("quantized/chat/tests/features.json")


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        call = self.call_method("_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment():
    jinja = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    jinja.filters["tojson"] = tojson
    jinja.globals["raise_exception"] = raise_exception
    jinja.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW).strftime(form)
    return jinja


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "Name of a city, such as 'Zürich' or <Rome>"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": ["integer", "null"], "default": 3, "minimum": 0.5},
        "items": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["city"],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a city\nnow & later",
            "parameters": PARAMETERS,
        },
    },
    {
        "type": "function",
        "function": {
            "name": "now",
            "description": "The time",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]
CALL = {
    "id": "abcdef123",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2, "items": ["a", "b"]}},
}
SYSTEM = turn("system", "Be brief.\nBe kind.")
USER = turn("user", "  What's <this> & \"that\"?\n")
ANSWER = turn("assistant", "It is ünique. ")
AGAIN = turn("user", "And now?")
THOUGHT = turn("assistant", "<think>\nHm.\n</think>\n\nYes.")
REASONED = turn("assistant", "Yes.", reasoning_content="Hm.")
CALLED = [
    USER,
    turn("assistant", "", tool_calls=[CALL]),
    turn("tool", '{"celsius": 20}', tool_call_id="abcdef123", name="weather"),
]
CONVERSATIONS = {
    "one turn": [USER],
    "system": [SYSTEM, AGAIN],
    "answered": [USER, ANSWER],
    "several turns": [SYSTEM, USER, ANSWER, AGAIN],
    "thought": [USER, THOUGHT, AGAIN],
    "reasoned": [USER, REASONED, AGAIN],
    "tool called": CALLED,
    "tool answered": [SYSTEM, *CALLED, turn("assistant", "20 degrees."), AGAIN],
    "content is null": [
        USER,
        turn("assistant", None, tool_calls=[CALL]),
        turn("tool", "20", tool_call_id="abcdef123", name="weather"),
        ANSWER,
        AGAIN,
    ],
}


def cases():
    """Every conversation with its rendering, by name."""
    for name, messages in CONVERSATIONS.items():
        for answer in (True, False):
            for tools in ([], TOOLS):
                for kwargs in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
                    rendering = {"answer": answer, "tools": tools, "kwargs": kwargs, "now": NOW}
                    yield f"{name}, answer {answer}, {len(tools)} tools, {kwargs}", messages, rendering


def without_nulls(messages):
    kept = [{key: value for key, value in m.items() if value is not None} for m in messages]
    return copy.deepcopy(kept)


def jinja2_says(compiled, messages, rendering, ends=(BOS, EOS)):
    """What Jinja2 renders or why it does not; `ends` are the tokens that begin and end a text."""
    if isinstance(compiled, str):
        return {"error": compiled}
    tools = {"tools": rendering["tools"]} if rendering["tools"] else {}
    try:
        text = compiled.render(
            messages=without_nulls(messages),
            add_generation_prompt=rendering["answer"],
            bos_token=ends[0],
            eos_token=ends[1],
            **tools,
            **rendering["kwargs"],
        )
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"text": text} if text else {"error": "empty"}


def merged(messages):
    """The system's text in front of the first user turn."""
    if len(messages) < 2 or messages[0]["role"] != "system":
        return messages
    first = dict(messages[1], content=messages[0]["content"] + "\n" + messages[1]["content"])
    return [first, *messages[2:]]


def parts(messages):
    def of(content):
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    return [dict(message, content=of(message.get("content"))) for message in messages]


def translora_says(lines):
    binary = os.environ["RENDER"]
    sent = "".join(json.dumps(line) + "\n" for line in lines)
    done = subprocess.run([binary], input=sent, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def compiled(text):
    try:
        return environment().from_string(text)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def compare(text):
    """How many conversations are the same, refused by both, fitted or different, and the first
    that differs."""
    listed = list(cases())
    sent = [
        {"template": text, "bos": BOS, "eos": EOS, "messages": messages, "rendering": rendering}
        for _, messages, rendering in listed
    ]
    jinja, counts, first = compiled(text), {}, None
    for (name, messages, rendering), ours in zip(listed, translora_says(sent), strict=True):
        theirs = jinja2_says(jinja, messages, rendering)
        forms = [merged(messages), parts(messages), parts(merged(messages))]
        if "error" in ours and "error" in theirs:
            verdict = "refused"
        elif ours == theirs:
            verdict = "same"
        elif "text" in ours and any(ours == jinja2_says(jinja, form, rendering) for form in forms):
            verdict = "fitted"
        else:
            verdict = "different"
            first = first or (name, theirs, ours)
        counts[verdict] = counts.get(verdict, 0) + 1
    return counts, first


def found(folders):
    """The templates in some folders."""
    files = sorted(
        file
        for folder in folders
        for file in pathlib.Path(folder).rglob("*")
        if file.suffix in (".jinja", ".jinja2", ".j2")
    )
    if not files:
        sys.exit("error: there are no templates (.jinja, .jinja2, .j2) in these folders")
    return files


def report(folders):
    files = found(folders)
    agree, totals = 0, {}
    for file in files:
        counts, first = compare(file.read_text(encoding="utf-8"))
        agree += first is None
        for verdict, count in counts.items():
            totals[verdict] = totals.get(verdict, 0) + count
        words = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        print(f"{'ok ' if first is None else 'BAD'} {file.name}: {words}")
        if first:
            name, theirs, ours = first
            print(f"    {name}\n    Jinja2:   {theirs}\n    translora: {ours}")
    words = ", ".join(f"{count} {verdict}" for verdict, count in sorted(totals.items()))
    print(f"{agree} of {len(files)} templates agree; conversations: {words}")
    return agree == len(files)


def bless():
    """Write what Jinja2 makes of the features into their table."""
    global NOW
    NOW = NOON
    table = json.loads(FEATURES.read_text(encoding="utf-8"))
    for row in table:
        rendering = {"answer": row.get("answer", False), "tools": row.get("tools", [])}
        rendering["kwargs"] = row.get("kwargs", {})
        said = jinja2_says(compiled(row["template"]), row.get("messages", []), rendering)
        row.pop("text", None)
        row.pop("refused", None)
        if "error" in said:
            row["refused"] = True
        else:
            row["text"] = said["text"]
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in table)
    FEATURES.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
    print(f"{len(table)} features written to {FEATURES}")


if __name__ == "__main__":
    if sys.argv[1] == "--bless":
        bless()
    else:
        sys.exit(0 if report(sys.argv[1:]) else 1)
