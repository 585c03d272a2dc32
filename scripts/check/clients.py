"""The Python package openai as a client of `translora serve`: what scripts/check/clients runs."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import openai

url, key, rows = sys.argv[1:]
client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)
rows = [json.loads(line) for line in open(rows)][:40]


def ask(row, model="ticket", **more):
    return client.chat.completions.create(
        model=model, temperature=0, messages=[{"role": "user", "content": row["prompt"]}], **more
    )


def refused(kind, call):
    try:
        call()
    except kind as error:
        assert error.body["message"], error
        return
    raise AssertionError(f"{kind.__name__} was expected")


assert [model.id for model in client.models.list()] == ["base", "ticket"]
with ThreadPoolExecutor(8) as pool:
    answers = [reply.choices[0].message.content for reply in pool.map(ask, rows)]
right = sum(answer == row["completion"] for answer, row in zip(answers, rows))
assert right > len(rows) // 2, f"{right} of {len(rows)}"

raw = client.chat.completions.with_raw_response.create(
    model="ticket", messages=[{"role": "user", "content": "hi"}], max_tokens=2
)
assert raw.headers["x-translora-generation"] == "1", raw.headers

for row, answer in list(zip(rows, answers))[:8]:
    parts, usage = [], None
    for chunk in ask(row, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        parts += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(parts) == answer, (parts, answer)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

choice = ask(rows[0], logprobs=True, top_logprobs=3).choices[0]
tokens = choice.logprobs.content
assert "".join(token.token for token in tokens) == choice.message.content
assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in tokens)

text = client.completions.create(
    model="base", prompt="Once", max_tokens=5, temperature=0, logprobs=1
)
assert text.usage.completion_tokens == 5 and text.choices[0].finish_reason == "length"

refused(openai.NotFoundError, lambda: ask(rows[0], model="nobody"))
refused(openai.BadRequestError, lambda: ask({"prompt": "x " * 5000}))
refused(openai.BadRequestError, lambda: ask(rows[0], n=2))
wrong = openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0)
refused(openai.AuthenticationError, wrong.models.list)
print(
    f"openai {openai.__version__}: {right} of {len(rows)} answers are right, streams equal whole"
    " answers, refusals have their classes"
)
