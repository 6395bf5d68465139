"""W3C trace context and OpenTelemetry's variables."""

from random import Random

import pytest
from multidict import CIMultiDict

from sluice_gateway.otelsettings import ExportError, read_export
from sluice_gateway.tracing import Sampler, begin_trace, read_parent, read_sampler, read_state

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def begin(*headers, sampler=None):
    return begin_trace(CIMultiDict(headers), Random(1).getrandbits, sampler)


def test_a_client_s_trace_goes_on_with_spans_of_our_own():
    own = begin(("traceparent", PARENT), ("TraceState", "a=1"), ("tracestate", "b=2"))
    assert (own.trace_id, own.parent_id, own.sampled) == (TRACE, SPAN, True)
    child = own.begin_child()
    assert child.parent_id == own.span_id
    assert len({SPAN, own.span_id, child.span_id}) == 3
    assert child.render_headers() == {
        "traceparent": f"00-{TRACE}-{child.span_id}-01",
        "tracestate": "a=1,b=2",
    }


def test_without_a_parent_a_trace_begins_and_its_state_is_not_believed():
    own = begin(("tracestate", "a=1"))
    assert len(own.trace_id) == 32
    assert (own.parent_id, own.state, own.sampled) == ("", "", False)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_what_is_no_parent_is_ignored(value):
    assert read_parent([value]) is None


def test_two_parents_are_none_and_later_versions_are_understood():
    assert read_parent([PARENT, PARENT]) is None
    assert read_parent([f"cc-{TRACE}-{SPAN}-01-what-the-future-brings"]) == (TRACE, SPAN, True)
    assert read_parent([f"00-{TRACE}-{SPAN}-02"]) == (TRACE, SPAN, False)


def test_a_state_too_long_or_not_printable_is_dropped():
    assert read_state(["a=1", "", " b=2 "]) == "a=1,b=2"
    assert read_state([f"a={'x' * 600}"]) == ""
    assert read_state(["a=\x7f"]) == ""


def test_the_sampler_follows_the_client_or_a_ratio():
    asked = begin(("traceparent", PARENT[:-1] + "0"), sampler=read_sampler({}))
    assert not asked.sampled
    assert begin(sampler=read_sampler({})).sampled
    half = Sampler(0.5)
    assert half.takes("0" * 16 + "7" + "f" * 15, parent=None)
    assert not half.takes("0" * 16 + "8" + "0" * 15, parent=None)
    always = read_sampler({"OTEL_TRACES_SAMPLER": "always_on"})
    assert always.takes(TRACE, parent=False)


def test_spans_go_where_opentelemetry_s_variables_say():
    assert read_export({}, uid="u") is None
    export = read_export(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x, b=2",
            "OTEL_RESOURCE_ATTRIBUTES": "service.name=one,zone=a%2Cb",
            "OTEL_SERVICE_NAME": "two",
        },
        uid="u",
    )
    assert export.url == "http://collector:4318/v1/traces"
    assert export.headers == {"authorization": "Bearer x", "b": "2"}
    assert export.resource == {"service.instance.id": "u", "service.name": "two", "zone": "a,b"}
    assert "Bearer" not in repr(export)
    exact = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector/x"}
    assert read_export(exact, uid="u").url == "http://collector/x"
    assert read_export({**exact, "OTEL_SDK_DISABLED": "true"}, uid="u") is None


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "is 'collector:4317'; name a coll"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "TIMEOUT is 'soon'; use a number of milli"),
        ({"OTEL_TRACES_SAMPLER": "some"}, "SAMPLER is 'some'; use always_on"),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"},
            "SAMPLER_ARG is '2'; use a number from 0 to 1",
        ),
    ],
)
def test_variables_that_cannot_be_followed_get_a_sentence(environ, sentence):
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", **environ}
    with pytest.raises(ExportError) as raised:
        read_export(told, uid="u")
    assert sentence in str(raised.value)
