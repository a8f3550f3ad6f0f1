"""The engine: from a request to stored rows."""

import moe_router_bench
