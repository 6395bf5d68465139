"""Ages of Leases on our own clock: what a node writes as time does not matter."""

from sluice.observe.leases import LeaseBook


def test_a_lease_ages_until_it_changes():
    now = [100.0]
    book = LeaseBook(lambda: now[0])
    assert book.age("maia-0") is None
    book.note({"maia-0": "2019-01-01T00:00:00Z"}, now[0])
    assert book.renewed("maia-0") is None
    now[0] += 30
    book.note({"maia-0": "2019-01-01T00:00:00Z"}, now[0])
    assert book.age("maia-0") == 30
    book.note({"maia-0": "2099-01-01T00:00:00Z"}, now[0])
    assert (book.age("maia-0"), book.renewed("maia-0")) == (0, 130.0)


def test_a_node_that_is_gone_is_forgotten():
    book = LeaseBook(lambda: 0.0)
    book.note({"maia-0": "a"}, 0.0)
    book.note({}, 0.0)
    assert book.age("maia-0") is None
    assert book.lag("maia-0") == 0.0


def test_a_beat_may_be_as_old_as_the_list_before_however_long_reads_failed():
    now = [100.0]
    book = LeaseBook(lambda: now[0])
    book.note({"maia-0": "a"}, 99.5)
    now[0] = 105.0
    book.note({"maia-0": "b"}, 104.8)
    assert book.lag("maia-0") == 5.5
    now[0] = 147.0  # the API server did not answer for a while
    book.note({"maia-0": "c"}, 146.0)
    assert (book.renewed("maia-0"), book.lag("maia-0")) == (147.0, 42.2)
