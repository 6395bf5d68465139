"""Only what differs in a field of ours is a difference."""

import pytest

from sluice.act.diff import find_differences, name_manager


def paths(wanted, found):
    return [d.path for d in find_differences(wanted, found)]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"cpu": "500m"}, {"cpu": "0.5"}),
        ({"memory": "1Gi"}, {"memory": "1024Mi"}),
        ({"devices": "2"}, {"devices": 2}),
        ({"paused": False}, {}),
        ({"text": ""}, {}),
        ({"list": []}, {}),
        ({"a": [{"x": 1}]}, {"a": [{"x": 1, "defaulted": True}]}),
    ],
    ids=["fields of others", "cpu", "memory", "number", "false", "empty", "no list", "in a list"],
)
def test_what_is_the_same_is_no_difference(wanted, found):
    assert paths(wanted, found) == []


def test_names_the_path_of_what_differs():
    found = {"spec": {"replicas": 7, "template": {"containers": [{"image": "a"}]}}}
    wanted = {"spec": {"replicas": 0, "template": {"containers": [{"image": "b"}]}}}
    assert paths(wanted, found) == ["spec.replicas", "spec.template.containers[0].image"]


def test_zero_is_not_absence():
    assert paths({"replicas": 0}, {}) == ["replicas"]


def test_a_longer_list_differs_as_a_whole():
    assert paths({"args": ["a"]}, {"args": ["a", "b"]}) == ["args"]


def test_names_who_else_changed_it_last():
    live = {
        "metadata": {
            "managedFields": [
                {"manager": "sluice", "time": "2026-01-03T00:00:00Z"},
                {"manager": "kubectl-edit", "time": "2026-01-02T00:00:00Z"},
                {"manager": "hpa", "time": "2026-01-01T00:00:00Z"},
                {"manager": "controller", "time": "2026-01-09T00:00:00Z", "subresource": "status"},
            ]
        }
    }
    assert name_manager(live, "sluice") == "kubectl-edit"
