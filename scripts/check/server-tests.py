"""Print the results of llama.cpp's server tests as a table: scripts/check/server-tests runs it."""

import sys
import xml.etree.ElementTree as xml
from collections import Counter

CASE = (
    "the server has the header, in lower case; the test compares names by their case, which HTTP"
    " does not have"
)
VERBOSE = "`verbose` is not there, in a request or in an answer"
REASONS = {
    "test_server_slots": "`/slots` is always there",
    "test_load_split_model": "the model is not on this machine",
    "test_no_ui": "there is no web page",
    "test_access_static_assets_without_api_key": "there is no web page",
    "test_server_model_aliases_and_tags": "a base has one name and no tags",
    "test_cors_options": "CORS is off without `--cors-origin`",
    "test_cors_origins_localhost_reflects": CASE,
    "test_cors_origins_defaults_to_localhost_with_tools_enabled": (
        "there are no tools in the server"
    ),
    "test_cors_proxy_only_forwards_explicit_proxy_headers": "there is no proxy",
    "test_local_media_file": "text only",
    "test_completion_stream[": (
        "`generation_settings` has no adaptive sampling, because there is none"
    ),
    "test_completion_unified": (
        "each slot has its share of the context and never fails for another's"
    ),
    "test_n_probs_post": "`post_sampling_probs` is not there, and is refused",
    "test_chat_completion[None-Book-What is the best book-8-^ blue": (
        "`--chat-template` takes a file, a name of llama.cpp's, or a text with tags"
    ),
    "test_chat_completion[codellama70b": "the 128 words are others than llama-server's",
    "test_chat_template": VERBOSE,
    "test_return_progress": "`return_progress` is not there",
    "test_chat_completions_multiple_choices": "one answer to a prompt: `n` above 1 is refused",
    "test_verbose_debug": VERBOSE,
}


def reason(name):
    found = [text for start, text in REASONS.items() if name.startswith(start)]
    return found[0] if found else None


passed, failed, total, unknown, skipped = Counter(), {}, Counter(), [], 0
for case in xml.parse(sys.argv[1]).iter("testcase"):
    file, name = case.get("classname").split(".")[1], case.get("name")
    if case.find("skipped") is not None:
        skipped += 1
        continue
    total[file] += 1
    if case.find("failure") is None and case.find("error") is None:
        passed[file] += 1
    elif reason(name) is None:
        unknown.append(f"{file}: {name}")
    else:
        plain = name.split("[")[0]
        failed.setdefault((file, plain, reason(name)), []).append(name)

print("# llama.cpp's server tests on `translora serve`\n")
print(
    "Printed by `scripts/check/server-tests`; `llama-server` is the one of the same source tree,"
    " its flags that `serve` lacks are left out.\n"
)
print("| file | passed | of |\n|---|---|---|")
for file in total:
    print(f"| {file} | {passed[file]} | {total[file]} |")
print(f"| all | {sum(passed.values())} | {sum(total.values())} |\n")
print("What fails, and why:\n")
print("| test | cases | reason |\n|---|---|---|")
for (file, name, why), cases in failed.items():
    print(f"| {file}: {name} | {len(cases)} | {why} |")
if unknown:
    sys.exit("no reason is known for: " + "; ".join(unknown))
