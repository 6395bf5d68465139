"""The types take and refuse what the table says; the API server is asked in tests/integration."""

import pytest
from pydantic import ValidationError

from .apicases import TYPES, list_cases

CASES = list_cases()


def test_there_are_good_and_bad_cases_and_no_name_stands_twice():
    names = [case.id for case in CASES]
    refused = [case for case in CASES if case.values[1]]
    assert len(set(names)) == len(names)
    assert len(refused) >= 30
    assert len(CASES) - len(refused) >= 10


@pytest.mark.parametrize(("document", "refused"), CASES)
def test_the_types_agree(document, refused):
    kind = TYPES[document["kind"]]
    if refused is None:
        kind.model_validate(document)
        return
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(document)
    if refused.startswith("must "):  # so our own sentences begin, which stand on both sides
        assert refused in str(caught.value)
