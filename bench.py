"""Entry point: `python bench.py --help`."""

from moe_router_bench import main

if __name__ == "__main__":
    main()
