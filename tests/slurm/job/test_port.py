"""A port that is kept for those who are to meet there."""

import socket
from datetime import timedelta

import pytest
import torch.distributed as dist

from slurm.job.port import reserve_port


def test_no_two_are_given_the_same_port():
    ports = [reserve_port() for _ in range(300)]
    assert len(set(ports)) == len(ports)


def test_only_who_knows_the_port_can_listen_there():
    port = reserve_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))
    store = dist.TCPStore("127.0.0.1", port, is_master=True, timeout=timedelta(seconds=10), wait_for_workers=False)
    store.set("met", "yes")
    assert store.get("met") == b"yes"
