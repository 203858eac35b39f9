"""Metas that were decoded once are not decoded again, and do not fill the memory."""

import pytest

from reasonchip_broker import errors
from reasonchip_broker.peer import metas as module
from reasonchip_broker.peer.metas import Metas
from reasonchip_broker.protocol import schemas


def test_a_meta_is_decoded_once() -> None:
    metas = Metas("RESULT", schemas.result_meta)
    raw = schemas.encode_meta(schemas.ResultMeta(enc="json"))
    assert metas.of(raw) is metas.of(raw)
    assert metas.of(raw).enc == "json"


@pytest.mark.parametrize("raw", [b"\xc1", b"\x81\xa3enc\x01"])
def test_a_meta_that_makes_no_sense_names_its_packet(raw: bytes) -> None:
    with pytest.raises(errors.RemoteProtocolError, match="PROGRESS"):
        Metas("PROGRESS", schemas.chunk_meta).of(raw)


def test_metas_made_up_as_one_goes_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "METAS_MAX", 10)
    metas = Metas("RESULT", schemas.result_meta)
    for number in range(50):
        metas.of(schemas.encode_meta(schemas.ResultMeta(enc=f"e{number}")))
    metas.of(schemas.encode_meta(schemas.GoodbyeMeta(msg="x" * 1000)))
    assert len(metas.known) <= 10
    assert all(len(raw) < 300 for raw in metas.known)
