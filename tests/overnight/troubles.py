"""Routers that fail in various ways if a file in the working folder says so."""

import os
import signal
import time
from pathlib import Path

import torch

from routers import Router, SoftRouting, register_router
from suites import Metric, MetricDef, Suite, register_suite


class Troubled(Router):
    """A router with one slot per expert that fails in its own way."""

    def allocate(self, logits):
        training = self.training and torch.is_grad_enabled()
        if training and Path(self.name).exists():
            self.trouble(len(logits))
        return SoftRouting.from_logits(logits[..., None])


@register_router("raises", family="soft")
class Raises(Troubled):
    """Raises an ordinary error."""

    def trouble(self, images):
        raise ValueError("a mistake of the router's")


@register_router("exits", family="soft")
class Exits(Troubled):
    """Calls sys.exit."""

    def trouble(self, images):
        raise SystemExit(0)


@register_router("leaves", family="soft")
class Leaves(Troubled):
    """Ends its process silently."""

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
    """Runs out of memory."""

    def trouble(self, images):
        raise torch.OutOfMemoryError("CUDA out of memory")


@register_router("crashes_early", family="soft")
class CrashesEarly(Router):
    """Crashes whenever it is called, even before any training."""

    def allocate(self, logits):
        if Path(self.name).exists():
            os._exit(3)
        return SoftRouting.from_logits(logits[..., None])


@register_suite("ends_its_process", family="trouble")
class EndsItsProcess(Suite):
    """Kills its own process."""

    on = "trial"
    main_metric = "nothing"
    metrics = (MetricDef("nothing", "", None, "Nothing."),)

    def measure(self, subject):
        if Path(self.name).exists():
            os._exit(3)
        yield Metric("nothing", 0.0)


@register_router("slow", family="soft")
class Slow(Troubled):
    """Takes 20 ms longer per step."""

    def trouble(self, images):
        time.sleep(0.02)


@register_router("crawls", family="soft")
class Crawls(Troubled):
    """Takes a second longer per step."""

    def trouble(self, images):
        time.sleep(1)
