"""Where a peer is."""

import pytest

from tests.unit.transports.fakes import FakeTransport, Rig


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("10.0.0.1", 1), "10.0.0.1:1"),
        (("fe80::1", 2, 0, 0), "[fe80::1]:2"),
        ("", "local"),
        (None, "local"),
        ("/run/peer.sock", "/run/peer.sock"),
    ],
)
def test_an_address_is_for_people_to_read(peername: object, address: str) -> None:
    rig = Rig()
    assert rig.made(FakeTransport(rig.loop, peername)).address == address
