"""Names that two programs keep apart are the same in both."""

import sluice.model.names as operator_names
import sluice_gateway.names as gateway_names


def test_operator_and_gateway_use_the_same_names():
    ours = {value for key, value in vars(operator_names).items() if key.isupper()}
    labels = {
        value
        for key, value in vars(gateway_names).items()
        if key.isupper() and isinstance(value, str) and value.startswith("sluice.dev/")
    }
    assert labels
    assert labels <= ours
