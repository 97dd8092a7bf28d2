"""Which addresses are on the public internet."""

from __future__ import annotations

import socket

import pytest

from empg.web.addresses import Deadline, PrivateAddressError, is_public, public_addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1", "fec0::2", "64:ff9b:1::7f00:1", "::127.0.0.1",
        "::ffff:0:7f00:1", "192.0.0.192", "168.63.129.16", "::ffff:168.63.129.16", "100::1",
    ],
)  # fmt: skip
def test_private_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


def test_a_name_with_one_private_address_is_private(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **more: entries[:1])
    assert public_addresses("a.example", 80) == ["8.8.8.8"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **more: entries)
    with pytest.raises(PrivateAddressError, match=r"a\.example is not on the public internet"):
        public_addresses("a.example", 80)


def test_no_wait_is_longer_than_python_can_wait() -> None:
    deadline = Deadline()
    for at, timeout in ((float("inf"), None), (1e15, 1e15), (float("inf"), 1e10)):
        deadline.at = at
        assert deadline.cut(timeout) == 86_400.0
