"""Few-shot transfer, compared with scikit-learn and on features with known answers."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from suites import build_suite
from suites.fewshot import STRENGTHS, LabelledFeatures, ridge_accuracy


def blobs(seed, classes=4, each=30, dim=12, spread=2.0):
    """Draw Gaussian classes, separable but not perfectly."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(classes).repeat_interleave(each)
    noise = torch.randn(len(labels), dim, generator=generator) * spread
    scale = torch.logspace(-2, 2, dim)
    return LabelledFeatures((centres[labels] + noise) * scale, labels)


@pytest.mark.parametrize("shots", [5, 10])
@pytest.mark.parametrize("seed", range(4))
def test_regularisation_and_answers_match_scikit_learn(shots, seed):
    train, test = blobs(seed).drawn(shots, seed), blobs(seed + 100)
    scaler = StandardScaler().fit(train.features.double().numpy())
    x = scaler.transform(train.features.double().numpy())
    y = np.eye(4)[train.labels.numpy()]
    fitted = RidgeCV(alphas=STRENGTHS, scoring="neg_mean_squared_error").fit(x, y)
    answers = fitted.predict(scaler.transform(test.features.double().numpy())).argmax(1)
    want = (answers == test.labels.numpy()).mean()
    assert 0.3 < want < 1
    assert ridge_accuracy(train, test, shots) == pytest.approx(want)


def test_with_one_shot_the_regularisation_strength_is_the_width():
    train, test = blobs(0, spread=1.0).drawn(1, 0), blobs(1, spread=1.0)
    scaler = StandardScaler().fit(train.features.double().numpy())
    x = scaler.transform(train.features.double().numpy())
    fitted = Ridge(alpha=12).fit(x, np.eye(4)[train.labels.numpy()])
    answers = fitted.predict(scaler.transform(test.features.double().numpy())).argmax(1)
    assert ridge_accuracy(train, test, 1) == pytest.approx((answers == test.labels.numpy()).mean())


def test_a_draw_is_balanced_over_classes_and_reproducible():
    features = blobs(0)
    drawn = features.drawn(7, 3)
    assert drawn.labels.bincount().tolist() == [7] * 4
    assert drawn.features.equal(features.drawn(7, 3).features)
    assert not drawn.features.equal(features.drawn(7, 4).features)
    assert len(drawn.features.unique(dim=0)) == 28


class Frozen:
    """A subject whose features are blobs; it counts how often they are computed."""

    has_features = True

    def __init__(self, spread):
        self.spread, self.passes = spread, []

    def features(self, data, split):
        self.passes.append((data, split))
        made = blobs(len(self.passes), spread=self.spread)
        return made.features, made.labels


def measured(suite, subject):
    return {(m.name, *m.where.values()): m.value for m in suite.measure(subject)}


def test_separable_features_give_full_accuracy_and_noise_gives_chance():
    suite = build_suite("fewshot", data=["a", "b"])
    exact, noise = measured(suite, Frozen(1e-3)), measured(suite, Frozen(1e3))
    assert exact["transfer_top1",] == 1
    assert exact["fewshot_half_width", "a", 1] == 0
    assert noise["transfer_top1",] == pytest.approx(0.25, abs=0.08)
    assert noise["fewshot_half_width", "b", 5] > 0


def test_the_headline_is_the_mean_over_data_sets_at_the_most_shots():
    values = measured(build_suite("fewshot", data=["a", "b"], shots=[5, 1]), Frozen(2.0))
    each = [values["fewshot_top1", data, 5] for data in "ab"]
    assert values["transfer_top1",] == pytest.approx(np.mean(each))


def test_each_split_passes_through_the_model_once():
    subject = Frozen(1.0)
    measured(build_suite("fewshot", data=["a", "b"], draws=9), subject)
    assert subject.passes == [("a", "train"), ("a", "test"), ("b", "train"), ("b", "test")]
