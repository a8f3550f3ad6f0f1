"""When a plan would be done: measured in small, on this machine, before anything is begun."""

from bench.forecast.errands import here, loading, workers
from bench.forecast.forecast import Forecast, forecast

__all__ = ["Forecast", "forecast", "here", "loading", "workers"]
