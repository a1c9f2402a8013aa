"""Many equal observations have the effect of one for each, and buckets are close enough for quantiles."""

from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, Histogram

from service.runtime import metrics
from service.runtime.metrics import observe_many


@pytest.mark.parametrize("value", [0.0, 0.1, 0.100001, 1.0, 5.0])
def test_many_equal_observations_are_as_many_single_ones(value: float) -> None:
    samples = []
    for number in (1, 3):
        histogram = Histogram("seconds", "of a test", buckets=(0.1, 1), registry=CollectorRegistry())
        for _ in range(3 // number):
            observe_many(histogram, value, number) if number > 1 else histogram.observe(value)
        samples.append(
            [
                (sample.name, sample.labels, sample.value)
                for metric in histogram.collect()
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ]
        )
    assert samples[0] == samples[1]


HISTOGRAMS = [each for each in vars(metrics).values() if isinstance(each, Histogram)]


@pytest.mark.parametrize("histogram", HISTOGRAMS, ids=lambda histogram: str(histogram._name))
def test_a_quantile_is_known_to_a_factor_of_two_and_a_half(histogram: Histogram) -> None:
    assert all(1 < upper / lower < 2.51 for lower, upper in pairwise(histogram._upper_bounds[:-1]))
