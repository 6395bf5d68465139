"""Ages of Leases on our own clock: what a node writes as time does not matter."""

from sluice.observe.leases import LeaseBook


def test_a_lease_ages_until_it_changes():
    now = [100.0]
    book = LeaseBook(lambda: now[0])
    assert book.age("maia-0") is None
    book.note({"maia-0": "2019-01-01T00:00:00Z"})
    assert book.renewed("maia-0") is None
    now[0] += 30
    book.note({"maia-0": "2019-01-01T00:00:00Z"})
    assert book.age("maia-0") == 30
    book.note({"maia-0": "2099-01-01T00:00:00Z"})
    assert (book.age("maia-0"), book.renewed("maia-0")) == (0, 130.0)


def test_a_node_that_is_gone_is_forgotten():
    book = LeaseBook(lambda: 0.0)
    book.note({"maia-0": "a"})
    book.note({})
    assert book.age("maia-0") is None
