"""The main job on a real control plane, with real requests."""

import itertools

import pytest

from .story import HOLD_DOWN, Load, ask, make_pool, wait_until


@pytest.fixture
def chat(sluice):
    """A pool named chat with a serving worker; gone after the test."""
    sluice.create(make_pool("chat"))
    wait_until(lambda: sluice.serving("chat", "maia-200") >= 1, "a worker serves")
    wait_until(lambda: ask(sluice.gateway(), "chat")[0] == 200, "the gateway serves it")
    yield sluice
    sluice.delete_pool("chat")


def test_more_load_scales_then_spills_and_less_scales_back(chat):
    with Load(chat.gateway(), "chat", rate=7.5) as load:
        wait_until(lambda: chat.wanted("chat", "maia-200") == 4, "the preferred variant is full")
        wait_until(lambda: chat.share("chat", "h100") > 0, "the pool spills")
        wait_until(lambda: chat.serving("chat", "h100") > 0, "GPU serves")
        wait_until(lambda: {"maia-200", "h100"} == set(load.answers), "both classes answer")
    assert load.lost == []
    assert not load.unequal, "the same question to the same class got different answers"
    numerics = {v["acceleratorClass"]: v["numerics"] for v in chat.status("chat")["variants"]}
    assert numerics == {"maia-200": "fp8-block", "h100": "fp8-row"}
    for worker in chat.workers("chat"):
        of = worker["metadata"]["labels"]["sluice.dev/accelerator-class"]
        assert f"--numerics={numerics[of]}" in worker["spec"]["containers"][0]["args"]
    wait_until(
        lambda: (chat.wanted("chat", "maia-200"), chat.wanted("chat", "h100")) == (1, 0),
        "the pool is small again",
        seconds=240,
    )
    steps = chat.steps("chat")
    assert any("a worker =" in step.reason for step in steps)
    assert any(step.after < step.before for step in steps)
    for name in ("maia-200", "h100"):
        of_one = [step for step in steps if step.accelerator_class == name]
        for before, step in itertools.pairwise(of_one):
            if step.after < step.before:
                assert step.after == step.before - 1
                # Events carry whole seconds.
                assert step.at - before.at >= HOLD_DOWN - 1


@pytest.mark.parametrize("harm", ["kill", pytest.param("freeze", marks=pytest.mark.full)])
def test_a_lost_maia_node_ends_in_fallback_and_in_return(chat, harm, tmp_path):
    with Load(chat.gateway(), "chat", rate=3.0) as load:
        wait_until(lambda: chat.serving("chat", "maia-200") >= 2, "Maia scales")
        wait_until(lambda: chat.condition("chat", "Progressing") == "False", "it settles")
        nodes = [w["spec"]["nodeName"] for w in chat.workers("chat")]
        node = max(nodes, key=nodes.count)
        chat.cluster.act_on_node(node, harm)
        try:
            wait_until(lambda: node in chat.tainted(), "the node is quarantined")
            wait_until(lambda: chat.condition("chat", "FallbackActive") == "True", "it falls back")
            wait_until(lambda: chat.serving("chat", "h100") >= 1, "GPU serves")
            assert chat.events("chat", "CapacityLost")
        finally:
            chat.cluster.act_on_node(node, "start")
        wait_until(lambda: not chat.tainted(), "the node returns")
        assert "sluice.dev/health" in chat.annotations(node)
        chat.release(node)
        replayed = chat.replay(tmp_path / "passes.jsonl")
        assert replayed["passes"] > 20
        assert replayed["different"] == []
        without = ("--without", "liveness", "--without", "gateway")
        turns = chat.replay(tmp_path / "passes.jsonl", *without)["turns"]
        told = [one for turn in turns for one in turn["decided"]]
        assert any(f"node {node} QuarantineNode" in one for one in told)
        wait_until(lambda: chat.condition("chat", "FallbackActive") == "False", "it is over")
        wait_until(lambda: chat.share("chat", "maia-200") >= 60, "traffic is back on Maia")
    assert load.lost == []
    assert not load.unequal


def test_an_outside_edit_is_put_back_and_reported(chat):
    chat.run("scale", "deployment", "chat-maia-200", "--replicas", "3")
    wait_until(lambda: chat.events("chat", "PutBack"), "the edit is reported")
    assert "spec.replicas 3" in chat.events("chat", "PutBack")[0]
    wait_until(
        lambda: chat.get("deployment", "chat-maia-200")["spec"]["replicas"] == 1, "it is put back"
    )


def test_an_edit_rolls_the_pool_without_dropping_a_request(chat):
    before = {w["metadata"]["uid"] for w in chat.workers("chat")}
    edited = make_pool("chat")
    edited["spec"]["variants"][0]["template"] = {"env": [{"name": "EDITED", "value": "yes"}]}
    with Load(chat.gateway(), "chat", rate=1.0) as load:
        chat.create(edited)
        wait_until(
            lambda: (
                (now := {w["metadata"]["uid"] for w in chat.workers("chat")})
                and not now & before
                and chat.serving("chat", "maia-200") >= 1
            ),
            "every worker is new",
        )
    assert load.failures == []


def test_numerics_that_the_device_has_not_are_told_and_take_no_worker_away(chat):
    before = {w["metadata"]["uid"] for w in chat.workers("chat")}
    asked = make_pool("chat")
    asked["spec"]["variants"][0]["numerics"] = "mx9"
    chat.create(asked)
    wait_until(lambda: chat.status("chat").get("reason") == "NumericsUnsupported", "it is told")
    told = chat.status("chat")["message"]
    assert "asks for numerics mx9, which the device of profile maia-200 does not multiply" in told
    assert chat.get("deployment", "chat-maia-200")["spec"]["paused"] is True
    assert {w["metadata"]["uid"] for w in chat.workers("chat")} == before
    assert ask(chat.gateway(), "chat")[0] == 200
    asked["spec"]["variants"][0]["numerics"] = "fp4"
    chat.create(asked)
    wait_until(
        lambda: (
            (args := [w["spec"]["containers"][0]["args"] for w in chat.workers("chat")])
            and all("--numerics=fp4" in one for one in args)
            and chat.condition("chat", "Degraded") == "False"
            and chat.serving("chat", "maia-200") >= 1
        ),
        "every worker computes in what was asked for instead",
    )


def test_deleting_a_pool_removes_all_it_made(sluice):
    sluice.create(make_pool("short"))
    wait_until(lambda: sluice.workers("short"), "it has workers")
    sluice.delete_pool("short")
    for kind in ("deployment", "service", "pdb"):
        wait_until(
            lambda kind=kind: not sluice.get(kind, "-l", "sluice.dev/pool=short")["items"],
            f"no {kind} is left",
        )


def test_two_pools_share_the_nodes(chat):
    chat.create(make_pool("second"))
    try:
        wait_until(lambda: chat.serving("second", "maia-200") >= 1, "the second pool serves")
        wait_until(lambda: ask(chat.gateway(), "second")[0] == 200, "and answers")
        assert ask(chat.gateway(), "chat")[0] == 200
    finally:
        chat.delete_pool("second")


def test_of_two_pools_with_one_model_name_the_older_serves(chat):
    rival = make_pool("rival")
    rival["spec"]["model"]["name"] = "chat"
    chat.create(rival)
    try:
        wait_until(lambda: chat.status("rival").get("reason") == "ModelNameTaken", "it is told")
        assert "default/chat" in chat.status("rival")["message"]
        assert not chat.workers("rival")
        assert ask(chat.gateway(), "chat")[0] == 200
    finally:
        chat.delete_pool("rival")


def test_a_variant_taken_out_of_the_spec_goes(chat):
    smaller = make_pool("chat")
    del smaller["spec"]["variants"][1]
    chat.create(smaller)
    wait_until(
        lambda: (
            [d["metadata"]["name"] for d in chat.get("deployment")["items"]] == ["chat-maia-200"]
        ),
        "only the other variant's Deployment is left",
    )
    assert ask(chat.gateway(), "chat")[0] == 200
