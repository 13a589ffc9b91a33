"""What this machine, its libraries and this installation can do and get wrong: `uniformer doctor`.

    for check in examine():
        print(check.part, check.name, check.found, check.verdict, check.remedy)

Needs no extra, no network, no terminal and no folder that can be written but a temporary one.
"""

from __future__ import annotations

from collections.abc import Iterator

from uniformer.speed import machine
from uniformer.speed.known_faults import FAULTS, Machine, known_faults
from uniformer.support.checks import Check, guarded


def examine() -> Iterator[Check]:
    """All checks, part by part, each as soon as it is done. What fails is a check that says so, and the rest goes on.

    Takes 15 s of a CPU at most. Without torch, as in an installation for exported networks alone, what needs it is
    left out.
    """
    yield from guarded("machine", machine.look_at_machine)
    has_torch = bool(machine.versions_of(["torch"]))
    if has_torch:
        yield from guarded("torch", machine.look_at_torch, needed=True)
    yield from guarded("libraries", machine.look_at_libraries, needed=True)
    yield from guarded("known faults", _faults)
    yield from guarded("extras", machine.look_at_extras)
    yield from guarded("caches", machine.look_at_caches)
    yield from guarded("fonts", machine.look_at_fonts)
    yield from guarded("decoders", _decoders, needed=True)
    if has_torch:
        yield from guarded("self-tests", _self_tests, needed=True)


def _faults() -> Iterator[Check]:
    versions = machine.versions_of({fault.package for fault in FAULTS})
    if "torch" not in versions:
        return known_faults(versions, Machine(machine.processor_flags(), has_gpu=False))
    if cudnn := machine.cudnn_version():
        versions["cudnn"] = cudnn
    return known_faults(versions, Machine(machine.processor_flags(), has_gpu=bool(machine.gpus())))


def _decoders() -> Iterator[Check]:
    from uniformer.reading.decoders import try_decoders

    return try_decoders()


def _self_tests() -> Iterator[Check]:
    import torch

    from uniformer.speed.selftests import self_tests

    yield from self_tests(torch.device("cpu"))
    if torch.cuda.is_available():
        yield from self_tests(torch.device("cuda"))
