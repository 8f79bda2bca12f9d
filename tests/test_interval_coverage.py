"""The 95 % intervals of all results hold what they are meant for: the benchmark on a few small samples."""

import pandas as pd
import pytest

SEEDS = range(4000, 4020)


@pytest.mark.slow
def test_intervals_hold_the_mean_of_twenty_twins(load_benchmark):
    module = load_benchmark("interval_coverage")
    draws = {"n_resamples": 100}
    found = pd.concat([module.one_twin(seed, 100, steps=module.QUICK_STEPS, options=draws) for seed in SEEDS])
    # samples without errors would take as long again: the mean of the twenty stands for the truth
    table = module.coverage(found, found)
    assert 0.90 < table.loc["all", "holds_generator"] < 0.985
    for name in ("a_nm", "b_nm", "gamma_deg", "theta_mean_deg", "theta_mean_in_layer_deg"):
        assert table.loc[name, "holds_generator"] >= 0.75, name
    narrow = found.assign(
        low=(found["value"] + found["low"]) / 2,
        high=(found["value"] + found["high"]) / 2,
    )
    assert module.coverage(narrow, found).loc["all", "holds_generator"] < 0.85
