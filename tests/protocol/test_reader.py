"""The reader of frames, one test for each MUST of RFC 6455, 5.2, 5.4, 5.5, 5.8 and 6.2; and how frames are written."""

from __future__ import annotations

import itertools

import pytest
from protocol.wire import (
    BINARY,
    CLOSE,
    CONT,
    KEY,
    PING,
    PONG,
    RSV1,
    RSV2,
    RSV3,
    TEXT,
    Frame,
    answers,
    both_roles,
    close_payload,
    failed_with,
    feed,
    frame,
    head,
    new_session,
    peer_key,
    sent,
    taken,
)

# Each form of length at its edges, and sizes around the widths that the kernels work in.
SIZES = [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 63, 64, 65, 124, 125, 126, 127, 255, 256, 257, 1000, 65535, 65536, 65537]


# ---- the examples of 5.7 ----


def test_5_7_a_single_frame_unmasked_text_message() -> None:
    client = new_session(client=True)
    assert client.receive_data(bytes.fromhex("810548656c6c6f")) == 7
    assert taken(client) == ["Hello"]
    server = new_session()
    server.send("Hello")
    assert server.take_output() == bytes.fromhex("810548656c6c6f")


def test_5_7_a_single_frame_masked_text_message() -> None:
    server = new_session()
    assert server.receive_data(bytes.fromhex("818537fa213d7f9f4d5158")) == 11
    assert taken(server) == ["Hello"]
    client = new_session(client=True, source=lambda size: KEY * (size // 4))
    client.send("Hello")
    assert client.take_output() == bytes.fromhex("818537fa213d7f9f4d5158")


def test_5_7_a_fragmented_unmasked_text_message() -> None:
    client = new_session(client=True)
    client.receive_data(bytes.fromhex("010348656c"))
    assert taken(client) == []
    client.receive_data(bytes.fromhex("80026c6f"))
    assert taken(client) == ["Hello"]
    server = new_session()
    server.send_fragment("Hel", text=True, first=True, final=False)
    server.send_fragment("lo", text=True, first=False, final=True)
    assert server.take_output() == bytes.fromhex("010348656c80026c6f")


def test_5_7_unmasked_ping_request_and_masked_ping_response() -> None:
    client = new_session(client=True, source=lambda size: KEY * (size // 4))
    client.receive_data(bytes.fromhex("890548656c6c6f"))
    assert client.take_output() == bytes.fromhex("8a8537fa213d7f9f4d5158")


@pytest.mark.parametrize(("size", "start"), [(256, "827e0100"), (65536, "827f0000000000010000")])
def test_5_7_binary_messages_in_a_single_unmasked_frame(size: int, start: str) -> None:
    payload = bytes(i % 251 for i in range(size))
    server = new_session()
    server.send(payload)
    output = server.take_output()
    assert output == bytes.fromhex(start) + payload
    client = new_session(client=True)
    client.receive_data(output)
    assert taken(client) == [payload]


# ---- 5.2: the head ----


@both_roles
@pytest.mark.parametrize("rsv", [RSV1, RSV2, RSV3, RSV1 | RSV2, 7])
@pytest.mark.parametrize("opcode", [CONT, TEXT, BINARY, CLOSE, PING, PONG])
def test_5_2_rsv_bits_are_zero_unless_an_extension_gives_them_a_meaning(client: bool, opcode: int, rsv: int) -> None:
    session = new_session(client)
    if opcode == CONT:
        feed(session, (TEXT, b"", False))
    feed(session, Frame(opcode, rsv=rsv))
    assert failed_with(session, 1002) == "reserved bits are set"


@both_roles
@pytest.mark.parametrize(
    ("opcode", "rsv"), [(TEXT, RSV2), (TEXT, RSV1 | RSV3), (CLOSE, RSV1), (PING, RSV1), (PONG, RSV1), (CONT, RSV1)]
)
def test_5_2_rsv_bits_that_permessage_deflate_does_not_use(client: bool, opcode: int, rsv: int) -> None:
    session = new_session(client, deflate=True)
    if opcode == CONT:
        feed(session, (TEXT, b"", False))
    feed(session, Frame(opcode, rsv=rsv))
    assert failed_with(session, 1002) == "reserved bits are set"


@both_roles
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_5_2_and_5_8_reserved_opcodes_fail_the_connection(client: bool, opcode: int) -> None:
    session = new_session(client)
    feed(session, (opcode, b""))
    assert failed_with(session, 1002) == f"reserved opcode {opcode:#x}"


@both_roles
@pytest.mark.parametrize("form", [0, 2, 8])
def test_5_2_every_form_of_length_is_read(client: bool, form: int) -> None:
    size = {0: 125, 2: 65535, 8: 65536}[form]
    session = new_session(client)
    session.receive_data(frame(BINARY, bytes(size), key=peer_key(session), form=form))
    assert taken(session) == [bytes(size)]


@both_roles
@pytest.mark.parametrize(("size", "form"), [(0, 2), (1, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)])
@pytest.mark.parametrize("opcode", [TEXT, PING])
def test_5_2_the_minimal_number_of_bytes_encodes_the_length(client: bool, size: int, form: int, opcode: int) -> None:
    session = new_session(client)
    session.receive_data(frame(opcode, b"a" * size, key=peer_key(session), form=form))
    assert failed_with(session, 1002) == "a frame's length is not in its shortest form"


@both_roles
@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, (1 << 63) + 5])
def test_5_2_the_most_significant_bit_of_a_64_bit_length_is_zero(client: bool, length: int) -> None:
    session = new_session(client, max_size=None)
    session.receive_data(head(BINARY, length, key=peer_key(session)))
    assert failed_with(session, 1002) == "the most significant bit of a 64-bit length is set"


@both_roles
@pytest.mark.parametrize("size", SIZES)
def test_5_2_lengths_are_written_in_their_shortest_form(client: bool, size: int) -> None:
    session = new_session(client)
    session.send(bytes(size))
    ((opcode, payload),) = answers(session)  # which insists on the shortest form
    assert (opcode, payload) == (BINARY, bytes(size))


@both_roles
@pytest.mark.parametrize("size", [0, 125, 126, 65536])
def test_5_2_a_head_in_pieces(client: bool, size: int) -> None:
    session = new_session(client)
    data = frame(BINARY, bytes(size), key=peer_key(session))
    length = len(data) - size
    for octet in data[:length]:
        assert session.receive_data(bytes([octet])) == 1
    assert session.receive_data(data[length:]) == size
    assert taken(session) == [bytes(size)]


@both_roles
def test_5_2_a_violation_is_found_with_the_last_byte_of_the_head(client: bool) -> None:
    session = new_session(client)
    data = head(BINARY, 1 << 63, key=peer_key(session))
    session.receive_data(data[:-1])
    assert session.phase_name == "OPEN"
    session.receive_data(data[-1:])
    failed_with(session, 1002)


# ---- 5.4: fragmentation ----


@both_roles
def test_5_4_a_message_in_one_frame(client: bool) -> None:
    session = new_session(client)
    feed(session, (TEXT, b"whole"))
    assert taken(session) == ["whole"]


@both_roles
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize(
    "parts", [["a", "b"], ["", ""], ["", "a"], ["a", ""], ["a", "", "b", "", "c"], ["ab" * 5000] * 3]
)
def test_5_4_fragments_are_joined_in_order(client: bool, opcode: int, parts: list[str]) -> None:
    session = new_session(client)
    for i, part in enumerate(parts):
        assert taken(session) == []
        feed(session, (opcode if i == 0 else CONT, part.encode(), i == len(parts) - 1))
    whole = "".join(parts)
    assert taken(session) == [whole if opcode == TEXT else whole.encode()]


@both_roles
def test_5_4_control_frames_in_the_middle_of_a_message(client: bool) -> None:
    session = new_session(client)
    feed(session, (TEXT, b"a", False), (PING, b"1"), (CONT, b"b", False), (PONG, b"?"), (PING, b"2"), (CONT, b"c"))
    assert answers(session) == [(PONG, b"1"), (PONG, b"2")]
    assert taken(session) == ["abc"]


@both_roles
@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_5_4_control_frames_are_not_fragmented(client: bool, opcode: int) -> None:
    session = new_session(client)
    feed(session, (opcode, b"", False))
    assert failed_with(session, 1002) == "a control frame is fragmented"


@both_roles
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [False, True])
def test_5_4_messages_are_not_interleaved(client: bool, opcode: int, fin: bool) -> None:
    session = new_session(client)
    feed(session, (TEXT, b"a", False), (opcode, b"b", fin))
    assert failed_with(session, 1002) == "a new message begins before the last one has ended"
    assert taken(session) == []


@both_roles
@pytest.mark.parametrize("fin", [False, True])
def test_5_4_a_continuation_needs_a_message_to_continue(client: bool, fin: bool) -> None:
    session = new_session(client)
    feed(session, (BINARY, b"a"), (BINARY, b"b", False), (CONT, b"c"))
    assert taken(session) == [b"a", b"bc"]
    feed(session, (CONT, b"d", fin))
    assert failed_with(session, 1002) == "a continuation frame without a message to continue"


@pytest.mark.parametrize("sizes", list(itertools.product([0, 1, 2, 3, 4, 5, 70, 5000], repeat=2)))
def test_5_4_each_fragment_is_masked_from_its_own_beginning(sizes: tuple[int, int]) -> None:
    payloads = [bytes(range(251)) * 20, bytes(range(249, 0, -1)) * 21]
    first, second = (payload[:size] for payload, size in zip(payloads, sizes, strict=True))
    session = new_session()
    session.receive_data(frame(BINARY, first, fin=False, key=KEY) + frame(CONT, second, key=b"\x01\x02\x04\x08"))
    assert taken(session) == [first + second]


@both_roles
def test_5_4_control_frames_between_the_fragments_that_are_sent(client: bool) -> None:
    session = new_session(client)
    session.send_fragment("a", text=True, first=True, final=False)
    feed(session, (PING, b"!"))
    session.send_fragment("b", text=True, first=False, final=False)
    session.ping(b"?", 0.0)
    session.send_fragment("", text=True, first=False, final=True)
    assert [(each.opcode, each.payload, each.fin) for each in sent(session)] == [
        (TEXT, b"a", False),
        (PONG, b"!", True),
        (CONT, b"b", False),
        (PING, b"?", True),
        (CONT, b"", True),
    ]


# ---- 5.5: control frames ----


@both_roles
@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_5_5_control_frames_have_at_most_125_bytes(client: bool, opcode: int) -> None:
    for size in [126, 65536]:
        session = new_session(client)
        session.receive_data(head(opcode, size, key=peer_key(session)))
        assert failed_with(session, 1002) == "a control frame is longer than 125 bytes"


@both_roles
@pytest.mark.parametrize("size", [0, 1, 124, 125])
def test_5_5_control_frames_of_up_to_125_bytes(client: bool, size: int) -> None:
    session = new_session(client)
    feed(session, (PING, bytes(range(size))), (PONG, bytes(size)))
    assert answers(session) == [(PONG, bytes(range(size)))]
    if size >= 2:
        feed(session, (CLOSE, close_payload(1000, b"r" * (size - 2))))
        assert session.close_received == (1000, "r" * (size - 2))


@both_roles
def test_5_5_control_frames_in_pieces(client: bool) -> None:
    session = new_session(client)
    payloads = [bytes(range(125)), b"", b"another"]
    for payload in payloads:
        for octet in frame(PING, payload, key=peer_key(session)):
            session.receive_data(bytes([octet]))
    assert answers(session) == [(PONG, payload) for payload in payloads]


# ---- 6.2: receiving data ----


@both_roles
def test_6_2_many_frames_in_one_read(client: bool) -> None:
    session = new_session(client)
    feed(session, *((TEXT, b"%d" % i) for i in range(500)))
    assert taken(session) == [str(i) for i in range(500)]


def test_6_2_what_is_fed_is_not_changed() -> None:
    data = frame(BINARY, b"masked", key=KEY)
    writable = bytearray(data)
    session = new_session()
    session.receive_data(writable)
    assert writable == data
    session.receive_data(memoryview(data))
    assert taken(session) == [b"masked", b"masked"]
