import itertools

from benchmarks.workloads import EVERYTHING, MANY_JOBS, IdleWorkload, Socket, System, Workload, select, select_idle, turns


def test_everything_that_the_issue_asks_for_is_there():
    names = {workload.name for workload in EVERYTHING}
    assert len(names) == len(EVERYTHING)
    for system in ("binary", "json"):
        for socket in ("tcp", "unix"):
            for shape in ("1x1-100B", "4x64-100B", "64x64-100B", "4x8-64KiB", "4x2-1MiB"):
                assert f"{system}-{socket}-{shape}" in names
    assert "json-tcp-4x32-100B" in names


def test_there_is_a_slot_for_every_job():
    for workload in EVERYTHING:
        shape = workload.shape
        assert shape.clients * shape.in_flight == shape.workers * shape.capacity


def test_nats_comes_along_with_what_is_compared_to_it():
    chosen = select("binary-tcp-4x64", quick=False, nats=True)
    assert [workload.name for workload in chosen] == ["nats-tcp-4x64-100B", "binary-tcp-4x64-100B"]
    assert chosen[1].baseline == chosen[0]


def test_nats_can_be_left_out_or_be_alone():
    assert {workload.system for workload in select(None, quick=False, nats=False)} == {System.BINARY, System.JSON}
    assert {workload.system for workload in select("nats", quick=False, nats=True)} == {System.NATS}


def test_patterns():
    assert {workload.shape for workload in select("4x64", quick=False, nats=True)} == {MANY_JOBS}
    assert {workload.socket for workload in select("*-unix-*", quick=False, nats=False)} == {Socket.UNIX}
    assert select("no such", quick=False, nats=True) == []
    assert len(select(None, quick=True, nats=True)) < len(select(None, quick=False, nats=True))


def test_idle_connections_are_selected_like_the_rest():
    both = [IdleWorkload(System.BINARY), IdleWorkload(System.NATS)]
    assert select_idle(None, nats=True) == both
    assert select_idle("idle-binary", nats=True) == both
    assert select_idle("idle", nats=False) == both[:1]
    assert select_idle("idle-nats", nats=True) == both[1:]
    assert select_idle("4x64", nats=True) == []


def test_systems_take_turns_at_going_first():
    chosen = select("4x64", quick=False, nats=True)
    firsts = [turns(chosen, number)[0] for number in range(len(chosen))]
    assert set(firsts) == set(chosen)
    assert all(sorted(turns(chosen, number), key=str) == sorted(chosen, key=str) for number in range(7))


def test_a_shape_is_measured_in_one_go():
    order = turns(select(None, quick=False, nats=True), 3)
    shapes = [workload.shape for workload in order]
    assert len(dict.fromkeys(shapes)) == 1 + sum(a != b for a, b in itertools.pairwise(shapes))
    assert Workload(System.NATS, Socket.TCP, MANY_JOBS) in order
