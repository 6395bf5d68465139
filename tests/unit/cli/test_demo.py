"""The demo without a cluster: what it counts as wrong, how it judges a run, what it shows."""

import contextlib
import io
import json
import threading
from collections import Counter
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from sluice.cli.demo import parity
from sluice.cli.demo.command import judge
from sluice.cli.demo.fleet import Fleet, read_view
from sluice.cli.demo.load import Load, Outcome
from sluice.cli.demo.play import ask_undisturbed
from sluice.cli.demo.prompts import Question, draw_requests, list_gaps, load_questions, load_trace
from sluice.cli.demo.reference import read_numerics
from sluice.cli.demo.report import describe_run, find_last_request, format_report
from sluice.cli.demo.story import Corruption, Kill, Story
from sluice.cli.demo.table import show_variants
from sluice.cli.errors import CommandError, ExitCode, run_command
from sluice.cli.main import sluice

NUMERICS = {"maia-200": "fp8-block", "h100": "fp8-row"}
SURVIVAL = {
    "tellers": ["w1", "w2"],
    "struck_after_tokens": 16,
    "cause": "reset",
    "pause_s": 0.5,
    "tokens": 179,
    "as_undisturbed": True,
    "said_to_be_approximate": False,
    "error": "",
}
QUESTION = Question("sort", "sort: 2 1", "1 2", 12)
STATUS: dict[str, Any] = {
    "variants": [
        {"acceleratorClass": "maia-200", "wanted": 3, "serving": 2, "share": "60%"},
        {"acceleratorClass": "h100", "wanted": 1, "serving": 1, "share": "40%"},
    ],
    "placement": "maia-200 2/3 60%, h100 1/1 40%",
}


class Client:
    """Answers each chat with the same pieces, as the openai client would."""

    def __init__(self, *pieces: str, finish: str | None = "stop") -> None:
        self._pieces, self._finish = pieces, finish
        self.chat = SimpleNamespace(completions=self)
        self.with_raw_response = self
        self.headers = {"x-sluice-class": "h100"}

    async def create(self, **_: Any) -> "Client":
        return self

    async def parse(self) -> Any:
        for piece in self._pieces:
            yield self._chunk(piece, None)
        yield self._chunk(None, self._finish)

    def _chunk(self, text: str | None, finish: str | None) -> Any:
        choice = SimpleNamespace(delta=SimpleNamespace(content=text), finish_reason=finish)
        return SimpleNamespace(choices=[choice])


def make_load(client: Client) -> Load:
    return Load(client, "compact", [QUESTION], iter(()), [1.0])


@pytest.mark.parametrize(
    ("pieces", "finish", "wrong"),
    [
        (("1 2", " 3"), "stop", False),
        (("1 2",), "length", False),
        (("1 2",), "stop", True),
        (("1 3",), "length", True),
    ],
)
async def test_an_answer_is_wrong_if_it_differs_from_the_undisturbed_one(
    pieces: tuple[str, ...],
    finish: str,
    wrong: bool,  # noqa: FBT001  # a column of the table
) -> None:
    load = make_load(Client(*pieces, finish=finish))
    load.references = {"h100": {QUESTION.prompt: "1 2 3"}}
    outcome = Outcome(0.0, QUESTION, 8)
    await load.ask(outcome)
    assert (outcome.wrong, outcome.error, outcome.accelerator) == (wrong, "", "h100")


async def test_an_answer_is_held_against_that_of_the_class_that_answered() -> None:
    load = make_load(Client("1 2 4"))
    load.references = {"h100": {QUESTION.prompt: "1 2 4"}, "maia-200": {QUESTION.prompt: "1 2 3"}}
    right, other = Outcome(0.0, QUESTION, 8), Outcome(0.0, QUESTION, 8)
    await load.ask(right)
    load.client.headers["x-sluice-class"] = "maia-200"
    await load.ask(other)
    assert [right.wrong, other.wrong] == [False, True]


async def test_an_answer_of_a_class_that_nobody_knows_is_not_taken_for_right() -> None:
    load = make_load(Client("1 2 3"))
    load.references = {"maia-200": {QUESTION.prompt: "1 2 3"}}
    outcome = Outcome(0.0, QUESTION, 8)
    await load.ask(outcome)
    assert (outcome.wrong, outcome.unjudged) == (False, True)
    assert make_run(outcome)["unjudged_answers"] == 1
    with pytest.raises(CommandError, match="1 answers came from a class that nobody knew"):
        judge(make_run(outcome))


@pytest.mark.parametrize(
    ("client", "said"),
    [
        (Client("1 2 3"), ""),
        (Client("9"), "1 of 1 questions were answered otherwise than on this machine, by h100"),
        (Client("1", finish=None), "the stream ended without a finish reason"),
    ],
)
async def test_the_demo_begins_only_where_the_cluster_answers_as_this_machine(
    client: Client, said: str
) -> None:
    load = make_load(client)
    load.references = {"h100": {QUESTION.prompt: "1 2 3"}}
    with pytest.raises(CommandError, match=said) if said else contextlib.nullcontext():
        await ask_undisturbed(load)


def test_what_a_class_computes_in_is_read_from_the_cluster() -> None:
    emulation = {"profile": "h100"}
    spec = {"nodeSelector": {"a": "b"}, "resourceName": "x.dev/y", "price": {"onDemand": "1"}}
    classes = [
        ("maia-200", spec | {"numerics": "fp8-block"}),
        ("h100", spec | {"emulation": emulation}),
        ("real", spec),
        ("unused", spec),
    ]
    objects = {
        "accel": {
            "items": [
                {
                    "apiVersion": "sluice.dev/v1alpha1",
                    "kind": "AcceleratorClass",
                    "metadata": {"name": name},
                    "spec": one,
                }
                for name, one in classes
            ]
        },
        "ipool": {
            "spec": {
                "model": {"name": "compact", "source": {"path": "/models/compact"}},
                "slo": {"ttft": "2s", "tpot": "200ms"},
                "variants": [
                    {"acceleratorClass": "maia-200", "max": 1, "numerics": "fp4"},
                    {"acceleratorClass": "h100", "max": 1},
                    {"acceleratorClass": "real", "max": 1},
                ],
            }
        },
    }
    found = read_numerics(lambda _, kind, *__: json.dumps(objects[kind]), "chat")
    assert found == {"maia-200": "fp4", "h100": "fp8-row", "real": "float32"}


async def test_a_stream_that_breaks_off_is_a_failure_and_no_wrong_answer() -> None:
    load = make_load(Client("9", finish=None))
    load.references = {"h100": {QUESTION.prompt: "1 2 3"}}
    outcome = Outcome(0.0, QUESTION, 8)
    await load.ask(outcome)
    assert outcome.error
    assert not outcome.wrong


def log_line(pod: str, at: float) -> str:
    return json.dumps({"attempts": [{"pod": pod, "dispatched_at": at}]})


@pytest.mark.parametrize(
    ("log", "seen"),
    [
        ([log_line("dead", 99.0), log_line("dead", 101.5), log_line("alive", 160.0)], 1.5),
        ([log_line("dead", 99.0), log_line("alive", 160.0)], 0.0),
        (["no JSON", "[1]", json.dumps({"event": "started"})], None),
    ],
)
def test_the_last_request_to_dead_workers_is_read_from_the_gateways_log(
    log: list[str], seen: float | None
) -> None:
    assert find_last_request(log, Kill("maia-0", 100.0, workers=("dead",))) == seen


def make_run(*outcomes: Outcome, **over: Any) -> dict[str, Any]:
    """Return the document of a run, measured on nothing, with some values replaced."""
    fleet: Any = SimpleNamespace(overrun_share=lambda: 0.01)
    load = make_load(Client())
    load.outcomes.append(Outcome(1.0, QUESTION, 8, first=1.5, ended=2.0, text="1 2"))
    for sent, ended in ((199.0, 201.0), (207.0, 211.0)):
        load.outcomes.append(Outcome(sent, QUESTION, 8, ended=ended, text="9", wrong=True))
    load.outcomes += outcomes
    load.references = {"maia-200": {QUESTION.prompt: "1 2"}, "h100": {QUESTION.prompt: "2 1"}}
    load.outcomes.append(Outcome(50.0, QUESTION, 8, ended=50.1, error="429", shed=True))
    story: Any = Story(fleet, load, lambda *_: None, lambda _: None)
    story.kills.append(Kill("maia-0", 100.0, detection_s=2.25, workers=("dead",)))
    story.spilled = story.fell_back = story.returned = True
    story.steps += ["1/3", "2/3", "3/3"]
    story.corruptions.append(
        Corruption("maia-1", 200.0, 1e-2, ("odd",), caught_s=8.0, returned_s=40.0, cause="prompt 2")
    )
    found = describe_run(story, load, fleet, NUMERICS, [log_line("dead", 100.5)])
    return found | {"survival": SURVIVAL} | over


def test_the_document_has_what_scripts_rely_on() -> None:
    found = make_run()
    assert found["detection_s"] == [2.25]
    assert found["last_request_to_dead_node_s"] == [0.5]
    assert found["replacement_wanted_s"] == found["replacement_ready_s"] == [None]
    assert (found["requests"], found["failed"], found["wrong_answers"]) == (4, 1, 0)
    assert (found["shed"], found["failed_before_first_token"]) == (1, 0)
    assert found["wrong_answers_before_catch"] == 2
    assert found["fell_back"] is found["returned"] is True
    assert found["numerics"] == NUMERICS
    assert found["model_accuracy"] == {"maia-200": 1.0, "h100": 0.0}
    assert found["answered_differently_by_class"] == 1
    told = format_report(found)
    assert "emulated" in told
    assert "not seen" in told
    assert "answer of its class (maia-200 in fp8-block, h100 in fp8-row); 1 questions" in told
    assert "answers right: 100 % on maia-200, 0 % on h100" in told


@pytest.mark.parametrize("outcome", ["fail", "blind"])
def test_parity_is_told_with_what_it_is_worth_and_fails_no_demo(
    monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    asked = []

    def compare(model: Path, sides: list[Any]) -> dict[str, Any]:
        asked[:] = [model, *(side[:2] for side in sides)]
        prompts = {"questions": 84, "right": 68}
        return {"outcome": outcome, "reasons": ["KL 0.02 > 0.01"], "prompts": prompts}

    monkeypatch.setattr(parity, "compare_sides", compare)
    monkeypatch.setattr(parity, "format_parity", lambda found: f"{found['outcome']}\n  why")
    found = parity.measure_parity(Path("models"), NUMERICS)
    assert asked == [Path("models/compact"), ("maia-200", "fp8-block"), ("h100", "fp8-row")]
    told = parity.tell_parity(found)
    assert f"  {outcome}\n    why\n\n  No bound fails the demo" in told
    assert "a model that has learnt its tasks" in told
    assert "answers 68 of 84 questions rightly" in told
    judge(make_run(parity=found))


def test_parity_that_cannot_be_measured_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise CommandError("Nothing was compared: no heldout.jsonl.")

    monkeypatch.setattr(parity, "compare_sides", refuse)
    found = parity.measure_parity(Path("models"), NUMERICS)
    assert "not measured: Nothing was compared: no heldout.jsonl." in parity.tell_parity(found)


def test_wrong_answers_after_the_corruption_was_caught_are_counted_against_us() -> None:
    late = Outcome(209.0, QUESTION, 8, ended=212.0, text="9", wrong=True)
    assert make_run(late)["wrong_answers"] == 1
    with pytest.raises(CommandError, match="1 answers were wrong"):
        judge(make_run(late))


@pytest.mark.parametrize("missing", ["caught_s", "returned_s"])
def test_a_corruption_that_nobody_catches_or_heals_fails_the_run(missing: str) -> None:
    run = make_run()
    run["corruptions"][0][missing] = None
    with pytest.raises(CommandError, match=r"corruption|repaired"):
        judge(run)


def test_a_good_run_passes() -> None:
    judge(make_run())


@pytest.mark.parametrize(
    "over", [{"fell_back": False}, {"returned": False}, {"wrong_answers": 1}, {"ramp_steps": []}]
)
def test_a_failed_run_fails(over: dict[str, Any]) -> None:
    with pytest.raises(CommandError) as caught:
        judge(make_run(**over))
    assert caught.value.code == ExitCode.FAILED


def test_an_invalid_run_is_never_taken_for_a_failed_fallback() -> None:
    with pytest.raises(CommandError, match="invalid") as caught:
        judge(make_run(valid=False, fell_back=False))
    assert caught.value.code == ExitCode.INVALID_RUN


def test_the_trace_is_small_and_its_gaps_keep_a_mean_of_one() -> None:
    text = resources.files("sluice.cli.demo").joinpath("requests.csv").read_bytes()
    gaps = list_gaps(load_trace())
    assert len(text) <= 20_000
    assert sum(gaps) / len(gaps) == pytest.approx(1.0)


def test_questions_are_of_most_tasks_and_lengths_and_short_enough_for_two_cores() -> None:
    lines = Path("workers/models/compact/heldout.jsonl").read_text().splitlines()
    entries = {one["prompt"]: one for one in map(json.loads, lines)}
    chosen = [
        entries[one.prompt] | {"told": one.tokens}
        for one in load_questions(Path("workers/models"), 24)
    ]
    assert all(one["told"] == one["tokens"] <= 200 for one in chosen)
    assert all(one["answerTokens"] <= 64 for one in chosen)
    asked = Counter(one["task"] for one in chosen)
    # Long ones are of few tasks: by length alone, half would be of one, and five of six of three.
    assert len(asked) >= 8
    assert max(asked.values()) <= 24 / 3
    assert chosen[0]["tokens"] < 20
    assert chosen[-1]["tokens"] > 150


def test_requests_follow_the_trace_and_stay_small() -> None:
    trace = load_trace()
    questions = load_questions(Path("workers/models"), 24)
    drawn = draw_requests(trace, questions, 96)
    requests = [next(drawn) for _ in trace]
    assert max(request.max_tokens for request in requests) <= 64
    assert len({request.question.prompt for request in requests}) > len(questions) / 2


def test_the_table_shows_where_workers_and_requests_are() -> None:
    fleet = Fleet(None, None, "default", "chat", view=read_view(STATUS))  # type: ignore[arg-type]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(show_variants(fleet, make_load(Client())))
    shown = console.export_text()
    assert "emulated devices" in shown
    assert "60 %" in shown
    assert "h100" in shown


def test_a_file_that_cannot_be_written_is_told_before_anything_starts() -> None:
    result = CliRunner().invoke(sluice, ["demo", "--json", "/nowhere/numbers.json"])
    assert isinstance(result.exception, CommandError)
    assert "/nowhere" in str(result.exception)


def test_installing_ends_at_ctrl_c_and_the_cluster_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = SimpleNamespace(supervisor=None, stopped=0)
    cluster.stop = lambda: setattr(cluster, "stopped", cluster.stopped + 1)

    def interrupt(*_: Any) -> None:
        assert threading.current_thread() is threading.main_thread()  # where Ctrl-C is raised
        raise KeyboardInterrupt

    monkeypatch.setattr("sluice.devcluster.binaries.resolution.resolve_binaries", lambda *_: None)
    monkeypatch.setattr("sluice.devcluster.cluster.start_cluster", lambda *_, **__: cluster)
    monkeypatch.setattr("sluice.cli.demo.play.install", interrupt)
    assert run_command(sluice, ["demo"]) == ExitCode.INTERRUPTED
    assert cluster.stopped == 1
