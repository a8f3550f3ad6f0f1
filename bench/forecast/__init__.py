"""When a plan would be done: measured in small, on this machine, before anything is begun."""

from bench.forecast.errands import here, loading, workers
from bench.forecast.forecast import Forecast, condition_of, forecast

__all__ = ["Forecast", "condition_of", "forecast", "here", "loading", "workers"]
