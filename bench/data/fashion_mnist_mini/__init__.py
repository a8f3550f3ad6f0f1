"""A class-balanced 6,000 + 2,000 images of Fashion-MNIST (arXiv 1708.07747, MIT licence)."""

from pathlib import Path

FILE = Path(__file__).with_name("images.npz")
