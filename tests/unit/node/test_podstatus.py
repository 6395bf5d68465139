from dataclasses import replace
from typing import Any

import pytest

from sluice_node.podstatus import (
    ContainerView,
    PodView,
    Running,
    State,
    Terminated,
    Waiting,
    decide_phase,
    is_reported,
    render_status,
)

DONE = Terminated(0, "Completed", 1, 2)
BROKEN = Terminated(3, "Error", 1, 2, "oops")
NOON = "2026-01-01T12:00:00Z"


def make_view(*states: State, policy: str = "Always", ready: bool = True, **more: Any) -> PodView:
    containers = tuple(
        ContainerView(
            f"c{index}", "w:1", state, ready=ready and isinstance(state, Running), started=True
        )
        for index, state in enumerate(states)
    )
    fields = {"pod_ip": "127.9.1.2", "host_ip": "127.9.1.1", "started_at": 0.0, "generation": 1}
    return PodView(policy, containers, **{**fields, **more})


def find_condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(item for item in status["conditions"] if item["type"] == kind)


@pytest.mark.parametrize(
    ("view", "phase"),
    [
        (make_view(Waiting("ContainerCreating")), "Pending"),
        (make_view(Running(1)), "Running"),
        (make_view(Running(1), Waiting("ContainerCreating")), "Pending"),
        (make_view(Running(1), BROKEN), "Running"),
        (make_view(DONE), "Running"),
        (make_view(DONE, policy="OnFailure"), "Succeeded"),
        (make_view(BROKEN, policy="OnFailure"), "Running"),
        (make_view(DONE, policy="Never"), "Succeeded"),
        (make_view(DONE, BROKEN, policy="Never"), "Failed"),
        (make_view(DONE, ended=True), "Succeeded"),
        (make_view(BROKEN, ended=True), "Failed"),
        (make_view(failure=("OutOfcpu", "no room")), "Failed"),
    ],
)
def test_phase_follows_containers_and_policy(view: PodView, phase: str):
    assert decide_phase(view) == phase


def test_a_crashing_container_keeps_the_pod_running():
    view = make_view(Waiting("CrashLoopBackOff"))
    crashed = replace(view.containers[0], last=BROKEN)
    assert decide_phase(replace(view, containers=(crashed,))) == "Running"


def test_conditions_say_which_containers_are_not_ready():
    status = render_status(make_view(Running(1), Waiting("ContainerCreating")), 0)
    ready = find_condition(status, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "ContainersNotReady")
    assert ready["message"] == "containers with unready status: [c1]"


def test_a_completed_pod_says_so():
    status = render_status(make_view(DONE, policy="Never"), 0)
    assert find_condition(status, "Ready")["reason"] == "PodCompleted"
    assert find_condition(status, "ContainersReady")["status"] == "False"


def test_transition_times_stay_until_a_condition_changes():
    first = render_status(make_view(Running(1), ready=False), 100)
    second = render_status(make_view(Running(1), before=first), 200)
    kept = find_condition(first, "Initialized")["lastTransitionTime"]
    assert find_condition(second, "Initialized")["lastTransitionTime"] == kept
    assert find_condition(second, "Ready")["lastTransitionTime"] != kept
    # what the earlier status said of being unready has to be taken away explicitly
    assert find_condition(second, "Ready")["reason"] is None


def test_the_same_view_renders_the_same_status():
    first = render_status(make_view(Running(1)), 100)
    assert render_status(make_view(Running(1), before=first), 500) == first


def test_a_refused_pod_has_reason_and_no_containers():
    status = render_status(make_view(Waiting("x"), failure=("OutOfcpu", "no room")), 0)
    assert (status["phase"], status["reason"], status["message"]) == (
        "Failed",
        "OutOfcpu",
        "no room",
    )
    assert "containerStatuses" not in status


def test_an_end_shows_code_reason_and_message():
    status = render_status(make_view(BROKEN), 0)
    ended = status["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "oops")
    assert Terminated.parse(ended) == BROKEN


def test_a_status_somebody_changed_is_not_reported():
    status = render_status(make_view(Running(1)), 100)
    assert is_reported(status, status)
    flipped = [
        {**item, "status": "False"} if item["type"] == "Ready" else item
        for item in status["conditions"]
    ]
    # the node lifecycle controller does this to the pods of a silent node
    assert not is_reported(status, {**status, "conditions": flipped})
    assert not is_reported(status, {**status, "phase": "Pending"})


def test_conditions_of_others_do_not_matter():
    status = render_status(make_view(Running(1)), 100)
    theirs = [*status["conditions"], {"type": "DisruptionTarget", "status": "True"}]
    assert is_reported(status, {**status, "conditions": theirs})
