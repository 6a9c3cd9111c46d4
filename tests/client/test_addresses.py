"""How addresses are read, ordered and shown."""

from __future__ import annotations

import itertools
import socket

from endpoints import V4, V6
from hypothesis import given
from hypothesis import strategies as st

from taut.client.dialling.addresses import Address, addresses_of, interleaved


def test_how_addresses_are_shown() -> None:
    answer = [
        (V6, 1, 6, "", ("fe80::1", 80, 0, 2)),
        (V4, 1, 6, "", ("127.0.0.1", 80)),
        (V6, 1, 6, "", ("::1", 443, 0, 0)),
        (V4, 1, 6, "", ("127.0.0.1", 80)),
        (socket.AF_UNIX, 1, 0, "", "elsewhere"),
    ]
    assert [each.text for each in addresses_of(answer)] == ["[fe80::1%2]:80", "127.0.0.1:80", "[::1]:443"]


@given(st.lists(st.sampled_from([V4, V6]), max_size=12))
def test_families_take_turns(families: list[int]) -> None:
    addresses = [Address(family, number, str(number)) for number, family in enumerate(families)]
    ordered = interleaved(addresses)
    assert sorted(each.sockaddr for each in ordered) == [each.sockaddr for each in addresses]
    assert ordered[:1] == addresses[:1]
    for family in (V4, V6):
        numbers = [each.sockaddr for each in ordered if each.family == family]
        assert numbers == sorted(numbers)
    both = 2 * min(families.count(V4), families.count(V6))
    assert all(one.family != other.family for one, other in itertools.pairwise(ordered[:both]))
