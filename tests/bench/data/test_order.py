import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.data.order import training_indices


@given(st.integers(1, 50), st.integers(0, 2**40), st.integers(1, 70), st.integers(0, 5))
def test_every_epoch_shows_every_image_once(num_samples, seed, batch_size, epoch):
    first = epoch * num_samples // batch_size
    last = (epoch + 1) * num_samples // batch_size
    drawn = [
        training_indices(num_samples, seed, step, batch_size) for step in range(first, last + 1)
    ]
    indices, epochs = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    assert indices[epochs == epoch].sort().values.tolist() == list(range(num_samples))


@given(st.integers(1, 40), st.integers(0, 9), st.integers(1, 6), st.integers(1, 6))
def test_the_order_is_that_of_the_sample_counter(num_samples, seed, small, factor):
    whole = training_indices(num_samples, seed, 3, small * factor)
    parts = [
        training_indices(num_samples, seed, 3 * factor + part, small) for part in range(factor)
    ]
    for together, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(together, torch.cat(pieces))


def test_seed_and_epoch_change_the_order():
    def epoch(seed, step):
        return training_indices(1000, seed, step, 1000)[0]

    assert torch.equal(epoch(0, 0), epoch(0, 0))
    for other in (epoch(1, 0), epoch(0, 1)):
        agreeing = (epoch(0, 0) == other).sum().item()
        assert agreeing < 10  # two random orders agree in one place on average
