"""Turn the paper's tasks into rows: prompts with their right completions."""

import csv
import io
import json
import math
import random
import tarfile

from paper_fetch import Failed, fetch

LETTERS = "ABCD"


def wilson(right, rows):
    """Wilson's 95 % interval of a share."""
    z, share = 1.959964, right / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = (
        z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def write_rows(path, rows):
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )


class Task:
    """One task, or one part of one."""

    def __init__(self, name, part, spec):
        self.name, self.part, self.spec = name, part, spec

    def title(self):
        return f"{self.name}.{self.part}" if self.part else self.name

    def lengths(self):
        return [
            "--input-tokens",
            self.spec.get("input_tokens", 256),
            "--answer-tokens",
            self.spec.get("answer_tokens", 96),
        ]

    def data(self, folder):
        return folder / "data" / self.title()

    def prepare(self, folder, train_max, rows_max, seeds, seed):
        """Write train.jsonl and eval.jsonl, which share no prompt, and tests.json where there are
        tests."""
        out = self.data(folder)
        chosen = {"train": train_max, "rows": rows_max, "seed": seed}
        note = out / "chosen.json"
        if note.exists() and json.loads(note.read_text()) == chosen:
            return
        try:
            train, test = READERS[self.spec["format"]](self, folder / "downloads")
        except (KeyError, ValueError, IndexError, UnicodeDecodeError, tarfile.TarError) as error:
            raise Failed(
                f"{self.title()}: what was fetched is not in the format {self.spec['format']}:"
                f" {error!r}",
                f"look at {folder / 'downloads'}, remove what is wrong there, and start again",
            ) from error
        train, test = shuffled(train, seed), shuffled(test, seed)
        if not test:
            # One set for both: a third is judged on at least.
            cut = max(min(train_max, len(train) * 2 // 3), 1)
            train, test = train[:cut], train[cut:]
        seen = {row["prompt"] for row in train[:train_max]}
        train, test = (
            train[:train_max],
            [row for row in test if row["prompt"] not in seen][:rows_max],
        )
        if len(train) < max(10, seeds) or not test:
            raise Failed(
                f"{self.title()}: {len(train)} rows to train on and {len(test)} to judge on are"
                " too few",
                "leave this part out (--parts)",
            )
        out.mkdir(parents=True, exist_ok=True)
        write_rows(out / "train.jsonl", [bare(row) for row in train])
        write_rows(out / "eval.jsonl", [bare(row) for row in test])
        if "tests" in test[0]:
            (out / "tests.json").write_text(json.dumps([row["tests"] for row in test]))
        note.write_text(json.dumps(chosen))

    def link(self, folder, run):
        """Give a run its data. Another choice of rows is another run."""
        run.mkdir(parents=True, exist_ok=True)
        for path in self.data(folder).iterdir():
            there = run / path.name
            if there.exists() and there.read_bytes() != path.read_bytes():
                raise Failed(
                    f"{run} is of another choice of rows",
                    "give the same --train, --rows and --seed as before, or another --folder",
                )
            if not there.exists():
                there.write_bytes(path.read_bytes())


def bare(row):
    return {"prompt": row["prompt"], "completion": row["completion"]}


def shuffled(rows, seed):
    """In random order, each prompt once."""
    rows = list({row["prompt"]: row for row in rows}.values())
    random.Random(seed).shuffle(rows)
    return rows


def file_of(task, folder, part=None):
    url = task.spec["url"].format(part=task.part if part is None else part)
    sums = task.spec.get("sha256", {})
    return fetch(url, folder / task.name / url.rsplit("/", 1)[-1], sums.get(part or task.part))


def bbh(task, folder):
    rows = json.loads(file_of(task, folder).read_text(encoding="utf-8"))["examples"]
    return [
        {"prompt": row["input"].strip(), "completion": row["target"].strip()} for row in rows
    ], []


def mmlu(task, folder):
    """Rows of csv in an archive: a question, four choices, a letter. `dev`, `val` and one half of
    `test` are trained on, because the
    first two hold a dozen or two of each subject; the other half is judged on."""
    archive = file_of(task, folder, part="")
    sets = {}
    with tarfile.open(archive) as tar:
        for kind in ("dev", "val", "test"):
            member = tar.extractfile(f"data/{kind}/{task.part}_{kind}.csv")
            sets[kind] = [
                question(row)
                for row in csv.reader(io.TextIOWrapper(member, encoding="utf-8"))
                if row
            ]
    test = shuffled(sets["test"], 0)
    half = len(test) // 2
    return sets["dev"] + sets["val"] + test[:half], test[half:]


def question(row):
    if len(row) != 6 or row[5].strip() not in LETTERS:
        raise ValueError(f"not a question with four choices: {row}")
    choices = "\n".join(f"{letter}. {choice.strip()}" for letter, choice in zip(LETTERS, row[1:5]))
    return {
        "prompt": f"{row[0].strip()}\n{choices}\nAnswer with one letter.",
        "completion": row[5].strip(),
    }


def gsm8k(task, folder):
    sets = []
    for part in ("train", "test"):
        lines = file_of(task, folder, part).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        sets.append(
            [
                {"prompt": row["question"].strip(), "completion": row["answer"].strip()}
                for row in rows
            ]
        )
    return sets


def mbpp(task, folder):
    lines = file_of(task, folder, part="").read_text(encoding="utf-8").splitlines()
    sets = ([], [])
    for row in (json.loads(line) for line in lines if line.strip()):
        tests = "\n".join([row.get("test_setup_code", ""), *row["test_list"]])
        # Without a test nobody knows the function's name.
        prompt = f"{row['text'].strip()}\nYour code should pass this test:\n{row['test_list'][0]}"
        # The authors' split: 11 to 510 are for testing.
        sets[11 <= row["task_id"] <= 510].append(
            {
                "prompt": prompt,
                "completion": row["code"].replace("\r\n", "\n").strip(),
                "tests": tests,
            }
        )
    return sets


READERS = {"bbh": bbh, "mmlu": mmlu, "gsm8k": gsm8k, "mbpp": mbpp}
