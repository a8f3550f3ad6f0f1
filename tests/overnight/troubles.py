"""Routers with which something goes wrong, where a file in the working folder says so."""

import os
import signal
import time
from pathlib import Path

import torch

from routers import Router, SoftRouting, register_router
from suites import Metric, MetricDef, Suite, register_suite


class Troubled(Router):
    """One slot an expert, and a trouble of its own."""

    def allocate(self, logits):
        training = self.training and torch.is_grad_enabled()
        if training and Path(self.name).exists():
            self.trouble(len(logits))
        return SoftRouting.from_logits(logits[..., None])


@register_router("raises", family="soft")
class Raises(Troubled):
    """Makes a mistake."""

    def trouble(self, images):
        raise ValueError("a mistake of the router's")


@register_router("exits", family="soft")
class Exits(Troubled):
    """Calls sys.exit."""

    def trouble(self, images):
        raise SystemExit(0)


@register_router("leaves", family="soft")
class Leaves(Troubled):
    """Ends its process without a word."""

    def trouble(self, images):
        os._exit(0)


@register_router("crashes", family="soft")
class Crashes(Troubled):
    """Crashes in native code."""

    def trouble(self, images):
        os.kill(os.getpid(), signal.SIGSEGV)


@register_router("hangs", family="soft")
class Hangs(Troubled):
    """Never returns."""

    def trouble(self, images):
        print("about to hang", flush=True)
        while True:
            time.sleep(1)


@register_router("too_large", family="soft")
class TooLarge(Troubled):
    """Is out of memory."""

    def trouble(self, images):
        raise torch.OutOfMemoryError("CUDA out of memory")


@register_router("crashes_early", family="soft")
class CrashesEarly(Router):
    """Crashes wherever it is called, also before any training."""

    def allocate(self, logits):
        if Path(self.name).exists():
            os._exit(3)
        return SoftRouting.from_logits(logits[..., None])


@register_suite("ends_its_process", family="trouble")
class EndsItsProcess(Suite):
    """Takes its process with it."""

    on = "trial"
    main_metric = "nothing"
    metrics = (MetricDef("nothing", "", None, "Nothing."),)

    def measure(self, subject):
        if Path(self.name).exists():
            os._exit(3)
        yield Metric("nothing", 0.0)


@register_router("slow", family="soft")
class Slow(Troubled):
    """Takes 20 ms more for a step."""

    def trouble(self, images):
        time.sleep(0.02)


@register_router("crawls", family="soft")
class Crawls(Troubled):
    """Takes a second more for a step."""

    def trouble(self, images):
        time.sleep(1)
