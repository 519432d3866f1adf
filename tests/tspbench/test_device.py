import pytest

from tspbench import device as module
from tspbench.device import workers_for


@pytest.mark.parametrize(
    ("device", "cores", "processes", "expected", "of_videos"),
    [
        ("cpu", 2, 1, 0, 1),  # a decoder that hangs can only be stopped in another process
        ("cpu", 64, 4, 0, 1),
        ("cuda", 64, 1, 8, 8),
        ("cuda", 64, 8, 8, 8),
        ("cuda", 16, 4, 4, 4),
        ("cuda", 15, 4, 3, 3),
        ("cuda", 2, 4, 0, 1),
    ],
)
def test_workers_share_the_cores_of_a_machine(monkeypatch, device, cores, processes, expected, of_videos):
    monkeypatch.setattr(module.os, "cpu_count", lambda: cores)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert workers_for(device, None) == expected
    assert workers_for(device, None, at_least=1) == of_videos


def test_what_is_asked_for_is_what_there_is(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert [workers_for(device, wanted, at_least=1) for device in ("cpu", "cuda") for wanted in (0, 3)] == [0, 3, 0, 3]
