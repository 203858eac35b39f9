from reasonchip_broker.cli.bench_jobs import PIPELINE, echo, worker


async def test_the_payload_comes_back():
    assert await echo(b"\x00\xff") == b"\x00\xff"
    assert worker.pipelines == [PIPELINE]
