"""The programs that measure several brokers in turn, on a machine that seems to have all of them."""

from benchmarks import in_turn, nats_server
from benchmarks.peers import servers


def have_everything(monkeypatch, tmp_path):
    """Nothing is missing, nothing is asked for its version, and no signal is handled."""
    monkeypatch.setattr(in_turn, "leave_in_order", lambda: None)
    monkeypatch.setattr(servers, "missing", lambda system: "")
    monkeypatch.setattr(nats_server, "find", lambda: tmp_path)
    monkeypatch.setattr(in_turn, "describe_versions", lambda *_: {"nats": "v2"})
