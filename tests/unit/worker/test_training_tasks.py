"""The compact model's tasks: the answers are right, and training never sees what is held out."""

import datetime as dt
import json
import random
import re
import sys

import pytest

from models.training import evaluate, tasks
from models.training.tasks import facts

EVERY = sorted(tasks.TASKS)


def draw(task, count=200, **options):
    rng = random.Random(3)
    return [tasks.draw_item(task, rng, held_out=False, **options) for _ in range(count)]


def check_copy(prompt, answer):
    line, copied = prompt.split("\n")[1].split(","), answer.split(",")
    changed = dict(re.findall(r'with "(\w+)" for "(\w+)"', prompt))
    gone = re.findall(r'without "(\w+)"', prompt)
    assert [{v: k for k, v in changed.items()}.get(w, w) for w in line if w not in gone] == copied


def check_reverse(prompt, answer):
    assert f'Reverse "{"".join(reversed(answer))}".' == prompt


def check_find(prompt, answer):
    lines = answer.split("\n")
    assert all(f"\n{line}\n" in prompt for line in lines)
    assert prompt.endswith("\n".join(["Find:", *(line.split("=")[0] for line in lines)]))


def check_json(prompt, answer):
    given = json.loads(prompt[5:].split("\n")[0])
    taken = json.loads(answer)
    assert list(taken) == prompt.split("Take:\n")[1].split("\n")
    assert taken.items() <= given.items()


def check_facts(prompt, answer):
    asked = re.findall(r"the (\w+) of (\w+)", prompt)
    told = re.findall(r"The (\w+) of (\w+) is (\w+)\.", answer)
    assert [(kind, name) for kind, name, _ in told] == asked
    assert all(facts.FACTS_KNOWN[kind, name] == value for kind, name, value in told)


def check_sort(prompt, answer):
    numbers = list(map(int, re.findall(r"\d+", prompt)))
    assert list(map(int, answer.split(" "))) == sorted(numbers)


def check_steps(answer):
    for left, right in re.findall(r"([\d+*-]+)=(\d+)", answer):
        assert eval(left) == int(right)  # noqa: S307  # digits and signs only


def check_add(prompt, answer):
    check_steps(answer)
    first, second = map(int, re.findall(r"\d+", prompt))
    assert answer.endswith(f":{first + second}")


def check_subtract(prompt, answer):
    check_steps(answer)
    first, second = map(int, re.findall(r"\d+", prompt))
    assert answer.endswith(f":{first - second}")


def check_convert(prompt, answer):
    check_steps(answer)
    large = {"wk": 7, "ft": 12, "yr": 12, "lb": 16, "km": 1000, "kg": 1000, "l": 1000}
    large |= {"d": 24, "h": 60, "min": 60, "m": 100, "cm": 10}
    count, name, rest, small = re.findall(r"(\d+) (\w+)(?: (\d+) \w+)? to (\w+)\.", prompt)[0]
    assert answer.endswith(f":{int(count) * large[name] + int(rest or 0)} {small}")


def check_date(prompt, answer):
    check_steps(answer)
    count, way, date = re.findall(r"is (\d+) days? (\w+) (\d+ \w+)\?", prompt)[0]
    start = dt.datetime.strptime(f"{date} 2027", "%d %B %Y")  # noqa: DTZ007
    found = start + dt.timedelta(int(count) * {"after": 1, "before": -1}[way])
    assert answer.endswith(f":{found.day} {found.strftime('%B')}")


def check_story(prompt, answer):
    fields = dict(line.split(": ") for line in prompt.split("\n")[1:])
    signs = {"spring", "summer", "autumn", "winter", "rain", "snow", "wind", "fog", "quiet", "sad"}
    for value in fields.values():
        sentence = {"wind": "the wind was"}.get(value, value)
        assert sentence in answer or value in signs
    assert not re.search(r"[{}]", answer)


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("task", EVERY)
def test_answers_are_right(task, level):
    for item in draw(task, level=level):
        globals()[f"check_{task}"](item.prompt, item.answer)
        assert tasks.solve(item.prompt) == item.answer
        assert tasks.find_task(item.prompt) == task


@pytest.mark.parametrize("task", EVERY)
def test_training_and_held_out_questions_do_not_overlap(task):
    identify = tasks.TASKS[task].identify
    trained = {identify(item.prompt) for item in draw(task, 1500)}
    held = [item.prompt for item in tasks.draw_items(task, random.Random(4), 1000)]
    assert len({identify(prompt) for prompt in held}) == 1000
    assert all(map(tasks.is_held_out, held))
    assert not trained & set(map(identify, held))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Add 12+345.", "Add 345+12."),
        ("Sort 31 22 13.", "Sort 13 31 22."),
        ('Reverse "BAKO".', 'Reverse "OKAB".'),
        (
            "Tell the river of Zoria, the flag of Kilum.",
            "Tell the flag of Kilum, the river of Zoria.",
        ),
    ],
)
def test_a_question_turned_round_is_the_same_question(one, other):
    task = tasks.TASKS[tasks.find_task(one)]
    assert task.identify(one) == task.identify(other)


def test_single_facts_are_all_told_in_training():
    assert len(facts.FACTS_KNOWN) == 300
    assert not any(tasks.is_held_out(f"Tell the {k} of {c}.") for k, c in facts.FACTS_KNOWN)
    told = {item.prompt for item in draw("facts", 4000, level=0.0)}
    assert len(told) == 300
    for item in tasks.draw_items("facts", random.Random(1), 50):
        assert item.prompt.count(" of ") > 1


@pytest.mark.parametrize("task", EVERY)
def test_the_same_seed_draws_the_same_questions(task):
    assert draw(task, 20) == draw(task, 20)


def test_more_questions_than_there_are_held_out_end_in_a_sentence(monkeypatch):
    begun = []
    monkeypatch.setattr(tasks, "_KNOWN_IN_A_ROW", 30)  # some of them are missed, and it is quick
    monkeypatch.setattr(evaluate, "ProcessPoolExecutor", lambda *_: begun.append("work"))
    monkeypatch.setattr(evaluate, "load_model", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["evaluate", "model", "--per-task=3000", "--tasks=date"])
    with pytest.raises(SystemExit, match=r"date has hardly more than \d+ .* 3000 are asked for"):
        evaluate.main()
    assert not begun


def test_a_prompt_of_no_task_is_named():
    with pytest.raises(ValueError, match=r"'hello' begins no question; .* with 'Copy '"):
        tasks.solve("hello")
