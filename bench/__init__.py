"""The engine: turns a request into stored results."""

import moe_router_bench
