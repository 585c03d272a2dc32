"""What scripts/paper does. Python's standard library and curl are all it needs."""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from paper_data import Task, wilson
from paper_fetch import Failed, fetch
from paper_metrics import METRICS

TABLE = pathlib.Path(__file__).with_suffix(".json")

HELP = """
For each pair of models and each task: an adapter is trained on the old model with --train rows, packed into a kit, moved to the new
model with what the kit holds, and judged on --rows other rows. The table has exact match (BBH, MMLU), the right final number (GSM8K) or
passed tests (MBPP), each with Wilson's 95 %% interval. Nothing that was done is done again: it lies in --folder, and a download goes on
where it was cut.

Files come from the addresses in scripts/paper.json, which --table replaces. Where that gives a sum or a size they are checked, else those
that the server tells, and what came the first time is what a file must stay. BBH and MMLU are many small tasks with an adapter each:
--parts says how many of them, or which.

MBPP runs Python that a language model wrote, on this machine, in a process with limits on time, memory and file size. That is no
sandbox: it could read your files and use your network. It is done only with --allow-code; use a virtual machine.
"""


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/paper", epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     description="Trans-LoRA's comparison on published models.")
    parser.add_argument("--pairs", default="small", help="names of pairs with commas between (see the table), or OLD:NEW, each a name, file or URL")
    parser.add_argument("--tasks", default="bbh,mmlu,gsm8k", help="of bbh, mmlu, gsm8k, mbpp")
    parser.add_argument("--parts", default="3", help="of a task that has parts: a number (the first so many), all, or names with commas between")
    parser.add_argument("--train", type=int, default=250, help="rows that an adapter is trained on, where there are as many")
    parser.add_argument("--rows", type=int, default=300, help="rows to judge on at most")
    parser.add_argument("--samples", type=int, default=250, help="made-up inputs to learn from")
    parser.add_argument("--epochs", default="4", help="passes over the rows, and over the samples")
    parser.add_argument("--lr", default="auto")
    parser.add_argument("--seeds", type=int, default=5, help="seed inputs in the kit")
    parser.add_argument("--input-model", action="store_true", help="a kit with a model that makes inputs")
    parser.add_argument("--oracle", action="store_true", help="train on the new model, too, and give the share of that gain that was kept")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-t", "--threads", default="0")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("target/paper"))
    parser.add_argument("--table", type=pathlib.Path, default=TABLE)
    parser.add_argument("--allow-code", action="store_true", help="run what models write for MBPP; read below first")
    parser.add_argument("--only-data", action="store_true", help="fetch and convert the tasks, and stop")
    return parser.parse_args()


def choose(table, names):
    """The chosen tasks' parts, in order."""
    for name in names.tasks.split(","):
        if name not in table["tasks"]:
            raise Failed(f"no task {name}", "there are " + ", ".join(table["tasks"]))
        spec = table["tasks"][name]
        if spec["metric"] == "code" and not (names.allow_code or names.only_data):
            raise Failed(f"{name} runs Python that a language model wrote", "give --allow-code if this machine may, or leave the task out")
        parts = spec.get("parts", [""])
        if parts != [""]:
            wanted = parts if names.parts == "all" else parts[: int(names.parts)] if names.parts.isdigit() else names.parts.split(",")
            if unknown := [part for part in wanted if part not in parts]:
                raise Failed(f"{name} has no part {unknown[0]}", "it has " + ", ".join(parts))
            parts = wanted
        for part in parts:
            yield Task(name, part, spec)


def model(table, name, folder):
    """A model by its name in the table, its path, or its URL."""
    if name in table["models"]:
        spec = table["models"][name]
    elif "://" in name:
        spec = {"url": name}
    elif pathlib.Path(name).is_file():
        return pathlib.Path(name)
    else:
        raise Failed(f"no model {name}", "give a file, a URL, or one of " + ", ".join(table["models"]))
    return fetch(spec["url"], folder / "models" / spec["url"].rsplit("/", 1)[-1], spec.get("sha256"), spec.get("bytes"))


def pairs(table, names):
    for name in names.split(","):
        if name in table["pairs"]:
            yield name, *table["pairs"][name]
        elif name.count(":") - name.count("://") == 1:
            cut = next(i for i, c in enumerate(name) if c == ":" and name[i : i + 3] != "://")
            yield name, name[:cut], name[cut + 1 :]
        else:
            raise Failed(f"no pair {name}", "give OLD:NEW, or one of " + ", ".join(table["pairs"]))


class Run:
    """One task on one pair."""

    def __init__(self, asked, task, folder, old, new):
        self.asked, self.task, self.folder, self.old, self.new = asked, task, folder, old, new
        self.seconds = 0.0

    def translora(self, *words, made, json_out=False):
        """Run the program unless it made its file before. Status 1 is a refusal by the evidence: a result."""
        command = [os.environ.get("TRANSLORA", "translora"), *map(str, words), "-t", self.asked.threads]
        if pathlib.Path(f"{made}.journal").is_dir():
            command.append("--resume")
        print("$", " ".join(command), file=sys.stderr, flush=True)
        start = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE if json_out else sys.stderr, text=True)
        self.seconds += time.monotonic() - start
        if done.returncode not in (0, 1):
            raise Failed(f"translora {words[0]} ended with {done.returncode}", "its message stands above; what was done is kept")
        return done.stdout

    def once(self, made, *words):
        if not made.exists():
            self.translora(*words, made=made)
        return made

    def train(self, base, name):
        flags = ("--epochs", self.asked.epochs, "--lr", self.asked.lr, "--seed", self.asked.seed)
        return self.once(self.folder / name, "train", "-m", base, "--data", self.folder / "train.jsonl", "--out", self.folder / name, *flags)

    def transfer(self, lora):
        """The new adapter, accepted or set aside, and the verdict."""
        asked, folder = self.asked, self.folder
        lengths = self.task.lengths()
        kit = folder / "task.kit"
        flags = ["--input-model"] if asked.input_model else []
        self.once(kit, "kit", "-m", self.old, "--lora", lora, "--data", folder / "train.jsonl", "--out", kit, "--lr", asked.lr,
                  "--seeds", asked.seeds, "--seed", asked.seed, *lengths[:2], *flags)
        moved = folder / "moved.gguf"
        aside = folder / "moved.rejected.gguf"
        if not moved.exists() and not aside.exists():
            # Only where exact match is the metric do known answers make a gate; else it is of likeness to the teacher.
            known = ["--eval", folder / "eval.jsonl"] if self.task.spec["metric"] == "exact" else []
            self.translora("transfer", "--source", self.old, "--source-lora", lora, "--target", self.new, "--kit", kit, "--out", moved,
                           "--samples", asked.samples, "--epochs", asked.epochs, "--lr", asked.lr, "--seed", asked.seed,
                           "--allow-weak-source", *lengths, *known, made=moved)
        adapter = moved if moved.exists() else aside
        return adapter, json.loads(adapter.with_suffix(".report.json").read_text())["verdict"]

    def right(self, name, base, lora=None):
        """How many rows are answered rightly, and of how many."""
        answers = self.folder / f"{name}.answers.jsonl"
        if not answers.exists():
            adapter = ["--lora", lora] if lora else []
            self.translora("eval", "-m", base, *adapter, "--data", self.folder / "eval.jsonl", "--answers", answers, "--json",
                           *self.task.lengths()[2:], made=answers, json_out=True)
        rows = [json.loads(line) for line in answers.read_text().splitlines()]
        metric = METRICS[self.task.spec["metric"]]
        tests = json.loads((self.folder / "tests.json").read_text()) if self.task.spec["metric"] == "code" else [None] * len(rows)
        return sum(metric(row["answer"], row["completion"], test) for row, test in zip(rows, tests)), len(rows)

    def go(self):
        lora = self.train(self.old, "source.gguf")
        adapter, verdict = self.transfer(lora)
        arms = [("source+LoRA", self.right("source-lora", self.old, lora)), ("target", self.right("target", self.new)),
                ("transferred", self.right("transferred", self.new, adapter))]
        if self.asked.oracle:
            arms.append(("oracle", self.right("oracle", self.new, self.train(self.new, "oracle.gguf"))))
        return arms, verdict


def share(right, rows):
    low, high = wilson(right, rows)
    return f"{100 * right / rows:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def line(pair, name, arms, verdicts, seconds):
    """A line of the table; counts are added up over the parts of a task."""
    cells = [share(right, rows) for _, (right, rows) in arms]
    counts = dict(arms)
    if "oracle" in counts:
        target, moved, oracle = (counts[arm][0] for arm in ("target", "transferred", "oracle"))
        cells.append(f"{(moved - target) / (oracle - target):.2f}" if oracle > target else "none to gain")
    verdict = ", ".join(f"{verdicts.count(found)} {found}" for found in sorted(set(verdicts)))
    return f"| {pair} | {name} | {arms[0][1][1]} | " + " | ".join(cells) + f" | {verdict} | {seconds:.0f} |"


def main():
    asked = arguments()
    table = json.loads(asked.table.read_text())
    tasks = list(choose(table, asked))
    for task in tasks:
        task.prepare(asked.folder, asked.train, asked.rows, asked.seeds, asked.seed)
    if asked.only_data:
        return
    arms = ["source+LoRA", "target", "transferred"] + (["oracle"] if asked.oracle else [])
    print("| pair | task | rows | " + " | ".join(arms) + (" | R" if asked.oracle else "") + " | verdicts | seconds |")
    print("|---" * (6 + len(arms) - 1 + bool(asked.oracle)) + "|", flush=True)
    for pair, old, new in pairs(table, asked.pairs):
        old, new = (model(table, name, asked.folder) for name in (old, new))
        found = {}
        for task in tasks:
            folder = asked.folder / "runs" / f"{old.stem}-to-{new.stem}" / task.title()
            task.link(asked.folder, folder)
            run = Run(asked, task, folder, old, new)
            got, verdict = run.go()
            of_task = found.setdefault(task.name, ([(arm, (0, 0)) for arm in arms], [], []))
            of_task[0][:] = [(arm, (a + b, c + d)) for (arm, (a, c)), (_, (b, d)) in zip(of_task[0], got)]
            of_task[1].append(verdict)
            of_task[2].append(run.seconds)
            if task.part:
                print(line(pair, task.title(), got, [verdict], run.seconds), flush=True)
        for name, (counts, verdicts, seconds) in found.items():
            print(line(pair, f"**{name}**", counts, verdicts, sum(seconds)), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Failed as failed:
        print(f"error: {failed}\nhint: {failed.hint}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
