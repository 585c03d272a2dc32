#!/usr/bin/env python3
"""Tasks of other kinds for real models, from public data: few labels, rewriting, exact numbers.

    scripts/lab/real_tasks.py FOLDER
    scripts/lab/transfers --real --data FOLDER --tasks "sentiment topic expand amount"

Each gets FOLDER/NAME/{train,eval,seeds}.jsonl: 1 000 rows, 300 rows, 5 seeds. The same rows every
time.

  sentiment  a sentence of a product review: positive or negative
  topic      a sentence: from a movie review, a news editorial, a product review or a tweet
  expand     a sentence, with its contractions written out
  amount     a number, an ordinal or a sum of dollars in words: in digits

The sentences and their ratings are those of Hutto and Gilbert, VADER, ICWSM 2014; they lie in the
Python package vaderSentiment 0.5 (MIT). Numbers are put into words by num2words 0.5.14 (LGPL-2.1),
which is only run. Both packages are downloaded with pip.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import io
import json
import pathlib
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from typing import Callable, Dict, Iterator, Tuple

PACKAGES = {
    "vaderSentiment==0.5": "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    "num2words==0.5.14": "1c8e5b00142fc2966fd8d685001e36c4a9911e070d1b120e1beb721fa1edb33d",
}
ROWS, SEEDS = {"train": 1000, "eval": 300}, 5
# Mean ratings of ten people go from -4 to 4; between these a sentence has no clear side.
UNCLEAR = 0.8
TOPICS = {
    "movieReviewSnippets": "movie",
    "nytEditorialSnippets": "news",
    "amazonReviewSnippets": "product",
    "tweets": "tweet",
}
# What stands for exactly one other thing; `'s` and `'d` do not.
CONTRACTIONS = [
    (r"\bcan't\b", "cannot"),
    (r"\bwon't\b", "will not"),
    (r"\bshan't\b", "shall not"),
    (r"\blet's\b", "let us"),
    (r"(\w)n't\b", r"\1 not"),
    (r"(\w)'re\b", r"\1 are"),
    (r"(\w)'ve\b", r"\1 have"),
    (r"(\w)'ll\b", r"\1 will"),
    (r"\bI'm\b", "I am"),
]

Row = Tuple[str, str]
Sentence = Tuple[str, float, str]


def packages(folder: pathlib.Path) -> list[pathlib.Path]:
    """The packages' archives, downloaded and checked."""
    files = []
    for package, sum_ in PACKAGES.items():
        at = folder / package
        kind = "--no-binary" if package.startswith("vader") else "--only-binary"
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
        subprocess.run([*pip, "--no-deps", kind, ":all:", "--dest", at, package], check=True)
        (file,) = at.iterdir()
        if hashlib.sha256(file.read_bytes()).hexdigest() != sum_:
            sys.exit(f"error: {file.name} is not the file that this was written for")
        files.append(file)
    return files


def sentences(archive: pathlib.Path) -> Iterator[Sentence]:
    """Text, mean rating and topic."""
    with zipfile.ZipFile(archive) as whole:
        (inner,) = [name for name in whole.namelist() if name.endswith("hutto_ICWSM_2014.tar.gz")]
        data = tarfile.open(fileobj=io.BytesIO(whole.read(inner)))
    for name, topic in TOPICS.items():
        file = data.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
        assert file is not None
        for line in file.read().decode("utf-8", "replace").splitlines():
            _, rating, text = line.split("\t", 2)
            text = html.unescape(text).replace("''", '"').strip()
            if 5 <= len(text.split()) <= 25 and text.isascii():
                yield text, float(rating), topic


def expanded(text: str) -> str:
    for pattern, whole in CONTRACTIONS:
        text = re.sub(pattern, whole, text)
    return text


def amount(in_words: Callable[..., str], r: random.Random) -> Row:
    kind, number = r.choice(["cardinal", "ordinal", "dollars"]), int(10 ** r.uniform(0, 6))
    if kind == "dollars":
        cents = r.choice([0, r.randrange(1, 100)])
        sum_ = number + cents / 100
        return in_words(sum_, to="currency", currency="USD"), f"${number}.{cents:02d}"
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0)
    return in_words(number, to=kind), str(number) + ("" if kind == "cardinal" else ending or "th")


def tasks(folder: pathlib.Path) -> Iterator[tuple[str, Iterator[Row]]]:
    archive, wheel = packages(folder)
    sys.path.insert(0, str(wheel))
    from num2words import num2words  # type: ignore[import-not-found]

    all_ = list(sentences(archive))
    rated = [(text, rating) for text, rating, topic in all_ if topic == "product"]
    clear = [(text, rating) for text, rating in rated if abs(rating) >= UNCLEAR]
    yield "sentiment", drawn("sentiment", clear, lambda r: "positive" if r > 0 else "negative")
    yield "topic", drawn("topic", [(text, topic) for text, _, topic in all_], str)
    contracted = [(text, text) for text, _, _ in all_ if expanded(text) != text]
    yield "expand", drawn("expand", contracted, expanded)
    r = random.Random("amount")
    yield "amount", (amount(num2words, r) for _ in iter(int, 1))


def drawn(name: str, rows: list, answer: Callable[..., str]) -> Iterator[Row]:
    """In random order."""
    random.Random(name).shuffle(rows)
    return ((text, answer(of)) for text, of in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path)
    out = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as folder:
        for name, all_ in tasks(pathlib.Path(folder)):
            rows: Dict[str, str] = {}
            for prompt, completion in all_:
                rows.setdefault(prompt, completion)
                if len(rows) == sum(ROWS.values()) + SEEDS:
                    break
            lines = [json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in rows.items()]
            (out / name).mkdir(parents=True, exist_ok=True)
            for part, count in {**ROWS, "seeds": SEEDS}.items():
                (out / name / f"{part}.jsonl").write_text("".join(lines[:count]))
                lines = lines[count:]
            print(f"{out / name}: {len(rows)} rows", file=sys.stderr)


main()
