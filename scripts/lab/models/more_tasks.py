"""Six more tasks of the lab's world, for looking at what the method does with tasks it was not made on.

    python3 scripts/lab/models/more_tasks.py FOLDER
    scripts/lab/transfers --data FOLDER --tasks "clock people_json word_sort intent change review" --parts main

Each gets FOLDER/NAME/{train,eval,seeds}.jsonl: 1 000 rows, 300 rows, 5 seeds. The same rows every time.
"""
import json
import pathlib
import random
import sys

from world import CITIES, COLORS, DAYS, FRUITS, NAMES, NUMW, OBJECTS, TASKS, VEGETABLES, plural, words

GOOD = "good great nice lovely perfect wonderful".split()
BAD = "bad awful poor terrible ugly broken".split()
INTENTS = {
    "lights": ["turn on the lamp in the {o} room", "make it dark please", "switch the {k} light off"],
    "music": ["play a song about {c}", "I want to hear the {i}", "stop the music"],
    "weather": ["will it be cold in {c} on {d}", "how hot is it in {c}", "do I need a coat on {d}"],
    "calendar": ["meet {n} on {d}", "what do I have to do on {d}", "move the meeting with {n} to {d}"],
    "shopping": ["buy {x} {f}", "put {f} on the list", "we need more {f}"],
}


def clock(r):
    """Times in words to 24 hours."""
    hour, minute = r.randint(1, 12), r.choice([0, 15, 30, 45, 10, 20, 40, 50, 5])
    now, coming, day = NUMW[hour], NUMW[hour % 12 + 1], r.choice(["in the morning", "in the evening"])
    in_words = lambda n: NUMW[n] if n < 13 else n
    if minute == 0:
        said = f"{now} o'clock"
    elif minute == 30:
        said = f"half past {now}"
    elif minute == 15:
        said = f"a quarter past {now}"
    elif minute == 45:
        said = f"a quarter to {coming}"
    elif minute < 30:
        said = f"{in_words(minute)} past {now}"
    else:
        said = f"{in_words(60 - minute)} to {coming}"
    frame = r.choice(["{p} comes at {s} {d}", "meet {p} in {c} at {s} {d}", "the train to {c} leaves at {s} {d}"])
    text = frame.format(p=r.choice(NAMES), c=r.choice(CITIES), s=said, d=day)
    return text, f"{hour % 12 + (12 if day == 'in the evening' else 0):02d}:{minute:02d}"


def people_json(r):
    """Slots as JSON."""
    name, age, city = r.choice(NAMES), r.randint(5, 90), r.choice(CITIES)
    frame = r.choice(["{n} is {a} years old and lives in {c}", "my friend {n} from {c} is {a}", "{n} ({a}) has a house in {c}",
                      "in {c} lives {n}, who is {a} years old"])
    return frame.format(n=name, a=age, c=city), json.dumps({"name": name, "age": age, "city": city})


def word_sort(r):
    some = words(r, r.randint(2, 4))
    return f"sort the words: {' '.join(some)}", " ".join(sorted(some))


def intent(r):
    """Fifteen phrasings of five labels."""
    label = r.choice(list(INTENTS))
    said = r.choice(INTENTS[label]).format(
        o=r.choice(COLORS), k=r.choice(COLORS), c=r.choice(CITIES), i=r.choice(["drum", "flute", "violin", "piano", "guitar"]),
        d=r.choice(DAYS), n=r.choice(NAMES), x=r.randint(2, 9), f=plural(r.choice(FRUITS + VEGETABLES)))
    return r.choice(["{s}", "{n}: {s}"]).format(n=r.choice(NAMES), s=said), label


def change(r):
    price = r.randint(1, 60)
    paid, thing = price + r.randint(0, 40), r.choice(OBJECTS)
    text = r.choice([f"{r.choice(NAMES)} buys a {thing} for {price} and pays with {paid}", f"the {thing} costs {price}. I give {paid}",
                     f"price {price}, paid {paid}"])
    return text, f"{paid - price} back"


def review(r):
    kind, thing = r.random(), r.choice(OBJECTS)
    word, stars = (r.choice(GOOD), 5) if kind < 0.35 else (r.choice(BAD), 1) if kind < 0.7 else (None, 3)
    if word:
        said = r.choice([f"the {thing} is {word}", f"{word} {thing}, {'I will buy it again' if stars == 5 else 'never again'}",
                         f"{r.choice(NAMES)} says the {thing} from {r.choice(CITIES)} is {word}"])
    else:
        said = r.choice([f"the {thing} is {r.choice(GOOD)} but the box was {r.choice(BAD)}", f"a {thing} is a {thing}",
                         f"it is just a {r.choice(COLORS)} {thing}"])
    return f"review: {said}", f"{stars} stars"


def main():
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    for task in (clock, people_json, word_sort, intent, change, review):
        name = task.__name__
        assert name not in TASKS
        r, rows = random.Random(name), {}
        while len(rows) < 1305:
            prompt, completion = task(r)
            rows.setdefault(prompt, completion)
        rows = [json.dumps({"prompt": prompt, "completion": completion}) + "\n" for prompt, completion in rows.items()]
        folder = pathlib.Path(sys.argv[1]) / name
        folder.mkdir(parents=True, exist_ok=True)
        for part, some in (("train", rows[:1000]), ("eval", rows[1000:1300]), ("seeds", rows[1300:])):
            (folder / f"{part}.jsonl").write_text("".join(some))


main()
