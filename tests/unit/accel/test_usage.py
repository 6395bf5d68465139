"""What a process tells of its use of a device comes back, and nonsense is told."""

import pytest

from sluice_accel.usage import DeviceUse, UsageError, decode_use, encode_use


def test_a_use_comes_back_as_it_was_sent():
    use = DeviceUse(busy=0.25, memory=0.92)
    assert decode_use(encode_use(use)) == use
    assert encode_use(use).count(b"\n") == 1


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"[]", b"{}", b"nonsense", b'{"busy":1}', b'{"busy":1,"memory":null}'),
        *(b'{"busy":1.5,"memory":0}', b'{"busy":0,"memory":-1}', b'{"busy":NaN,"memory":0}'),
        b"[" * 5000,
    ],
)
def test_what_is_no_use_is_refused_with_a_sentence(line):
    with pytest.raises(UsageError, match="no usage of a device"):
        decode_use(line)
