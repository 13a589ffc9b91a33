"""What a run takes: by CUDA's events on a GPU, where calls return before anything is computed; else by the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from uniformer.speed.timings import cpu_name


def seconds(run: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Seconds of one `run`, the mean of `times` of them one after the other; all work on the device is waited for."""
    if device.type != "cuda":
        begin = time.perf_counter()
        for _ in range(times):
            run()
        return (time.perf_counter() - begin) / times
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin_event.record()
        for _ in range(times):
            run()
        end_event.record()
        end_event.synchronize()
    return begin_event.elapsed_time(end_event) / 1000 / times


def processor_name(device: torch.device) -> str:
    """What a measurement is kept under."""
    return f"{cpu_name()}, {os.cpu_count()} cores" if device.type == "cpu" else torch.cuda.get_device_name(device)
