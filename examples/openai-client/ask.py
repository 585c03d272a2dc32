"""Asks an adapter of `translora serve` with OpenAI's Python package, and says which generation of it
answered.

pip install openai
translora serve -m base.gguf --adapters adapters/ --api-key secret
TRANSLORA_API_KEY=secret python ask.py task "Sara writes: the grey bag stopped working"
"""

import os
import sys

import openai

if len(sys.argv) != 3:
    sys.exit(__doc__)
model, question = sys.argv[1:]
client = openai.OpenAI(
    base_url=os.environ.get("TRANSLORA_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("TRANSLORA_API_KEY", "none"),
)
messages = [{"role": "user", "content": question}]

reply = client.chat.completions.with_raw_response.create(
    model=model, messages=messages, temperature=0
)
print(reply.parse().choices[0].message.content)
print(f"generation {reply.headers['x-translora-generation']} of {model}", file=sys.stderr)

for chunk in client.chat.completions.create(
    model=model, messages=messages, temperature=0, stream=True
):
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
