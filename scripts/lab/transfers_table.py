"""The tables in Markdown of the rows that scripts/lab/transfers keeps."""

from __future__ import annotations

import math
import pathlib
from dataclasses import dataclass
from typing import Tuple

NUMBERS = "rows.tsv"

# Part -> its title, and what its arms count.
PARTS = {
    "main": ("Every task", "samples"),
    "real": ("Real models", "pair"),
    "ablation": ("Ablation", "arm"),
    "hops": ("Two hops: to the new base and back to the old one", "arm"),
    "samples": ("Samples", "samples"),
    "kits": ("Seeds in a kit", "seeds of the kit"),
    "rank": ("Rank", "rank"),
}

# t of a two-sided 95 % interval, by degrees of freedom.
STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228]
STUDENT += [2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086]
STUDENT += [2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042]


# Part, setting, arm, seed of the random numbers.
Key = Tuple[str, str, str, str]


@dataclass(frozen=True)
class Row:
    """What one transfer measured. units: shares of right answers, seconds, MiB

    What comes after the seconds is of real models alone."""

    name: str
    task: str
    part: str
    setting: str
    arm: str
    seed: str
    target: float
    source: float
    oracle: float
    moved: float
    seconds: float
    low: float = math.nan
    high: float = math.nan
    shots: float = math.nan
    copy: float = math.nan
    peak: float = math.nan
    forecast: float = math.nan

    @staticmethod
    def of(fields: list[str]) -> Row:
        return Row(*fields[:6], *map(float, fields[6:]))  # type: ignore[call-arg,arg-type]

    def key(self) -> Key:
        return (self.part, self.setting, self.arm, self.seed)

    def retention(self) -> float:
        if self.oracle == self.target:
            return 0.0
        return (self.moved - self.target) / (self.oracle - self.target)


def read(kept: pathlib.Path) -> list[Row]:
    return [Row.of(line.split("\t")) for line in kept.read_text().splitlines()]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def interval(values: list[float]) -> str:
    """A mean, with Student's interval where there are two values or more."""
    n, middle = len(values), mean(values)
    if n < 2:
        return f"{middle:.2f}"
    variance = max(sum((value - middle) ** 2 for value in values), 0.0) / (n - 1)
    reach = STUDENT[min(n - 1, len(STUDENT)) - 1] * math.sqrt(variance / n)
    return f"{middle:.2f} ({middle - reach:.2f} to {middle + reach:.2f})"


def tables(rows: list[Row]) -> list[str]:
    """The lines of all tables, in the order of the parts."""
    lines: list[str] = []
    for part, (title, counted) in PARTS.items():
        of_part = [row for row in rows if row.part == part]
        if of_part:
            rows_of = real_table(of_part) if part == "real" else table(of_part, counted)
            lines += [f"\n### {title}\n", *rows_of, "", *summary(of_part)]
    return lines


def table(rows: list[Row], counted: str) -> list[str]:
    heads = ["setting", counted, "task", "target", "source+LoRA", "oracle", "transferred"]
    lines = ["| " + " | ".join([*heads, "R", "seeds", "seconds"]) + " |", "|---" * 10 + "|"]
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.setting, row.arm, row.task), []).append(row)
    for key, group in groups.items():
        sums = [
            sum(getattr(row, what) for row in group)
            for what in ("target", "source", "oracle", "moved")
        ]
        cells = [*key, *(f"{100 * total / len(group):.1f} %" for total in sums)]
        cells.append(interval([row.retention() for row in group]))
        cells.append(", ".join(row.seed for row in group))
        cells.append(f"{mean([row.seconds for row in group]):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def real_table(rows: list[Row]) -> list[str]:
    """A line for each run, with the interval of its own rows."""
    heads = ["setting", "pair", "task", "target", "with the seeds", "source's adapter on it"]
    heads += ["source+LoRA", "oracle", "transferred", "R", "forecast", "seed", "minutes", "MiB"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in rows:
        shares = [row.target, row.shots, row.copy, row.source, row.oracle]
        moved = f"{share(row.moved)} ({100 * row.low:.1f} to {100 * row.high:.1f})"
        cells = [row.setting, row.arm, row.task, *map(share, shares), moved]
        cells += [f"{row.retention():.2f}", f"{row.forecast:.2f}", row.seed]
        cells += [f"{row.seconds / 60:.1f}", f"{row.peak:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def share(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def summary(rows: list[Row]) -> list[str]:
    """A line for each setting and arm: the mean over tasks of each task's mean."""
    arms: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        of_arm = arms.setdefault((row.setting, row.arm), {})
        of_arm.setdefault(row.task, []).append(row.retention())
    lines = []
    for (setting, arm), tasks in arms.items():
        means = [mean(values) for values in tasks.values()]
        capped = mean([min(value, 1.0) for value in means])
        runs = sum(map(len, tasks.values()))
        line = f"- {setting}, {arm}: mean R {interval(means)} over {len(means)} tasks, {runs} runs"
        # A mean must not owe its height to one task that was moved better than retrained.
        if mean(means) - capped > 0.005:
            line += f"; {capped:.2f} where what is better than the oracle counts as 1"
        lines.append(line)
    return lines
