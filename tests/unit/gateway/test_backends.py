"""The arguments of a gateway without a cluster: what they mean, and what is said of wrong ones."""

import pytest

from sluice_gateway.backends import parse_backend
from sluice_gateway.backendwatch import AnswerError, read_models
from sluice_gateway.main import parse_arguments
from sluice_gateway.objects import Parity


def read(*arguments):
    return parse_arguments(["--host", "127.0.0.1", *arguments])


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
        ("http://10.0.0.1:8000/v1", "http://10.0.0.1:8000"),
        ("http://10.0.0.1:8000/v1/", "http://10.0.0.1:8000"),
        ("https://models.example.com/team/a/v1", "https://models.example.com/team/a"),
        ("https://models.example.com/team/", "https://models.example.com/team"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_urls_are_taken_as_openai_clients_write_them(url, base):
    assert parse_backend(f"a={url}").base == base


def test_classes_share_what_is_left_by_those_named():
    told = read(
        *("--backend", "a=http://a,class=maia-200"),
        *("--backend", "b=http://b,class=h100"),
        *("--backend", "c=http://c,class=h200"),
        *("--share", "maia-200=0.3"),
    ).backends
    assert told.variants == ("maia-200", "h100", "h200")
    assert told.shares == pytest.approx({"maia-200": 0.3, "h100": 0.35, "h200": 0.35})


def test_without_shares_all_are_equal():
    told = read("--backend", "a=http://a", "--backend", "b=http://b").backends
    assert told.shares == {}
    assert (told.slo.ttft, told.slo.tpot) == (2.0, 0.2)


def test_answers_are_compared_where_that_is_said():
    assert read(*A).backends.parity is None
    assert read(*A, "--parity-sample", "50%").backends.parity == Parity(0.5, 0.02)
    told = read(*A, "--parity-sample", "1%", "--parity-budget", "3%")
    assert told.backends.parity == Parity(0.01, 0.03)


def test_slots_say_how_many_requests_a_backend_is_sent():
    told = read("--backend", "a=http://a", "--slots", "64")
    assert told.patience.slots == 64
    assert told.relaying.inflight_most == 65


def test_without_backends_the_fleet_is_a_clusters():
    assert read().backends is None


A = ("--backend", "a=http://a,class=maia")
B = ("--backend", "b=http://b,class=gpu")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--backend", "http://a"], "--backend 'http://a' should be NAME=URL"),
        (["--backend", "a="], "--backend 'a=' should be NAME=URL"),
        (["--backend", "a b=http://a"], "should be NAME=URL"),
        (["--backend", "a=ftp://a"], "the URL 'ftp://a' should begin with http:// or https://"),
        (["--backend", "a=localhost:80"], "should begin with http:// or https:// and name a host"),
        (["--backend", "a=http://"], "and name a host"),
        (["--backend", "a=http://a:99999"], "the URL 'http://a:99999' is none"),
        (["--backend", "a=http://[::1"], "the URL 'http://[::1' is none"),
        (["--backend", "a=http://u:p@a"], "has more than host, port and path"),
        (["--backend", "a=http://a?x=1"], "has more than host, port and path"),
        (["--backend", "a=http://a,class="], "'class=' is no option of a backend"),
        (["--backend", "a=http://a,clas=x"], "'clas=x' is no option of a backend"),
        ([*A, "--backend", "a=http://b"], "2 backends have the name a; keep one"),
        ([*A, "--backend", "b=http://a/"], "2 backends have the URL http://a; keep one"),
        ([*A, "--share", "gpu=0.3"], "--share 'gpu=0.3': no backend has this class; known: maia"),
        ([*A, "--share", "maia=x"], "'x' is not a number from 0 to 1"),
        ([*A, "--share", "maia=nan"], "'nan' is not a number from 0 to 1"),
        ([*A, "--share", "maia"], "'' is not a number from 0 to 1"),
        ([*A, "--share", "maia=0.3"], "the shares add up to 0.3; let them add up to 1"),
        ([*A, *B, "--share", "maia=0.8", "--share", "gpu=0.8"], "the shares add up to 1.6"),
        ([*A, *B, "--share", "maia=0.8", "--share", "maia=0.8"], "maia has a share already"),
        ([*A, "--ttft", "soon"], "--ttft: 'soon' is not a duration; write it like 200ms"),
        ([*A, "--tpot", "0s"], "--tpot '0s' should be longer than 0s"),
        ([*A, "--slots", "0"], "--slots '0' is not a number from 1 to 10000"),
        (["--share", "maia=1"], "--share is for a gateway without a cluster"),
        (["--ttft", "2s"], "--ttft is for a gateway without a cluster"),
        (["--parity-sample", "2%"], "--parity-sample is for a gateway without a cluster"),
        ([*A, "--parity-sample", "x"], "--parity-sample: 'x' is not a percentage"),
        ([*A, "--parity-sample", "1%", "--parity-budget", "2"], "--parity-budget: '2' is not a"),
        ([*A, "--parity-budget", "2%"], "say with --parity-sample how much to compare"),
    ],
)
def test_a_wrong_argument_gets_one_sentence(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as ended:
        read(*arguments)
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert sentence in said[-1]


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"data": 3}', b'{"data": [3]}', b"[" * 20_000]
)
def test_what_is_no_list_of_models_is_refused(body):
    with pytest.raises(AnswerError, match="is no list of models"):
        read_models(body, 100)


def test_only_names_that_can_be_names_are_taken():
    odd = rb'{"id": ""}, {"id": 3}, {"id": "\ud800"}, {"id": "a\nb"}'
    body = b'{"data": [{"id": "b"}, %b, {"id": "a"}, {"id": "c"}]}' % odd
    assert read_models(body, 2) == {"a": None, "b": None}
