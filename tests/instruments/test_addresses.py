"""Rules for addresses: what they allow, and what tries to look like it."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scidaq.instruments import address_rule, allowed

LAB = (
    "192.168.1.0/24:5025",
    "10.0.0.7:5000-5100",
    "*.lab.example:5025",
    "[fd00::/64]:5025",
    "/dev/ttyUSB*",
    "USB0::0x2A8D::*",
)


@pytest.mark.parametrize(
    "address",
    [
        "192.168.1.7:5025",
        "tcp://192.168.1.7:5025",
        "[::ffff:192.168.1.7]:5025",
        "10.0.0.7:5000",
        "10.0.0.7:5100",
        "dmm.lab.example:5025",
        "DMM.Lab.Example.:5025",
        "[fd00::1]:5025",
        "/dev/ttyUSB0",
        "USB0::0x2A8D::0x0101::INSTR",
    ],
)
def test_what_is_allowed(address: str) -> None:
    assert allowed(address, LAB)
    assert not allowed(address, ())


@pytest.mark.parametrize(
    "address",
    [
        "192.168.2.7:5025",
        "192.168.1.7:5026",
        "192.168.1.7",
        "192.168.1.7:05025000",
        "192.168.1.7:0",
        "192.168.1.7:5025/x",
        "192.168.1.7:5025\n",
        "192.168.01.7:5025",
        "3232235783:5025",
        "0xc0a80107:5025",
        "192.168.263:5025",
        "10.0.0.7:4999",
        "10.0.0.7:5101",
        "lab.example:5025",
        "a.b.lab.example:5025",
        "dmm.lab.example.evil.test:5025",
        "evil.test/.lab.example:5025",
        "user@dmm.lab.example:5025@evil.test:5025",
        "fd00::1:5025",
        "[fd01::1]:5025",
        "/dev/ttyS0",
        "/dev/ttyUSB0/x",
        "/dev/ttyUSB/../sda",
        "/dev/../dev/ttyUSB0",
        "/dev/sda",
        "USB0::0x1111::0x0101::INSTR",
        "",
    ],
)
def test_what_is_not(address: str) -> None:
    assert not allowed(address, LAB)


def test_a_name_is_never_allowed_for_its_address() -> None:
    assert not allowed("localhost:5025", ["127.0.0.0/8:5025"])
    assert allowed("localhost:5025", ["localhost:5025"])
    assert not allowed("127.1:5025", ["*:5025"])
    assert allowed("10.0.0.9:1", ["10.0.0.9", "10.0.0.8:*"])
    assert allowed("10.0.0.8:1", ["10.0.0.9", "10.0.0.8:*"])


@pytest.mark.parametrize(
    "rule",
    [
        "",
        " ",
        "10.0.0.1/24:5025",
        "10.0.0.*:5025",
        "10.0.0.7:5100-5000",
        "10.0.0.7:99999",
        "[lab]:5",
        "a b:5",
        "h:p",
        "h:1:2",
    ],
)
def test_what_is_no_rule_says_what_would_be(rule: str) -> None:
    with pytest.raises(ValueError, match="is no rule for addresses: "):
        address_rule(rule)


@given(st.ip_addresses(), st.integers(1, 65535), st.integers(0, 32), st.integers(1, 65535), st.integers(0, 500))
def test_networks_and_ports_are_those_of_the_standard_library(
    ip: Any, port: int, bits: int, low: int, more: int
) -> None:
    network = ipaddress.ip_network(f"192.168.7.9/{bits}", strict=False)
    high = min(low + more, 65535)
    host = f"[{ip}]" if ip.version == 6 else str(ip)
    real = (ip.ipv4_mapped or ip) if ip.version == 6 else ip
    assert allowed(f"{host}:{port}", [f"{network}:{low}-{high}"]) is (
        real.version == 4 and real in network and low <= port <= high
    )


@given(st.text(), st.lists(st.sampled_from(LAB)))
def test_whatever_is_asked_gets_an_answer(address: str, rules: list[str]) -> None:
    assert allowed(address, rules) in (True, False)
