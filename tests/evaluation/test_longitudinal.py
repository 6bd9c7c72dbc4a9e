import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress, t, ttest_1samp

from brainfeat.evaluation import longitudinal_change
from brainfeat.exceptions import ConfigError, InputError


def make(rng, n_subjects=12, visits=(0.0, 1.0, 2.5), n_runs=1, n_columns=2, **scale):
    """Scans of subjects whose features fall by 0 a year, give or take a slope."""
    years = np.repeat(np.asarray(visits), n_runs)
    n = n_subjects * len(years)
    table = pd.DataFrame(
        {
            "participant_id": np.repeat(
                [f"sub-{i:02d}" for i in range(n_subjects)], n // n_subjects
            ),
            "session_id": np.tile(
                np.repeat([f"ses-{i}" for i in range(len(visits))], n_runs), n_subjects
            ),
        }
    )
    start = np.repeat(rng.uniform(50, 80, n_subjects), len(years))
    table["age"] = start + np.tile(years, n_subjects)
    level = np.repeat(rng.normal(size=(n_subjects, n_columns)), len(years), axis=0)
    slopes = scale.get("slopes", 0.0) * rng.normal(size=(n_subjects, n_columns))
    change = np.tile(years, n_subjects)[:, None] * np.repeat(slopes, len(years), axis=0)
    noise = scale.get("noise", 0.1) * rng.normal(size=(n, n_columns))
    names = [f"emb_{i}" for i in range(n_columns)]
    values = pd.DataFrame(10 * level + change + noise, columns=names)
    return pd.concat([table, values], axis=1)


def test_slopes_of_subjects_are_least_squares(rng):
    table = make(rng, slopes=0.2)
    result = longitudinal_change(table.sample(frac=1.0, random_state=0))
    lines = result.subjects.set_index(["subject", "column"])
    residuals = 0.0
    for name, rows in table.groupby("participant_id"):
        fit = linregress(rows["age"], rows["emb_1"])
        assert lines["slope"][name, "emb_1"] == pytest.approx(fit.slope, abs=1e-9)
        fitted = fit.intercept + fit.slope * rows["age"]
        residuals += float(np.square(rows["emb_1"] - fitted).sum())
        assert lines["years"][name, "emb_1"] == pytest.approx(2.5)
    noise = np.sqrt(residuals / 12)
    assert (result.noise_source, result.noise_degrees) == ("residuals", 12)
    assert result.slopes["noise"][1] == pytest.approx(noise, abs=1e-9)
    assert result.n_subjects == 12
    assert result.n_scans == 36


def test_two_scans_without_repeats_are_a_t_test_of_slopes(rng):
    table = make(rng, visits=(0.0, 2.0), slopes=0.2)
    result = longitudinal_change(table, ["emb_0"])
    slopes = table.groupby("participant_id")["emb_0"].agg(
        lambda x: (x.iloc[1] - x.iloc[0]) / 2
    )
    test = ttest_1samp(slopes, 0.0)
    line = result.slopes.iloc[0]
    assert line["slope"] == pytest.approx(slopes.mean())
    assert line["p"] == pytest.approx(test.pvalue, abs=1e-9)
    interval = test.confidence_interval()
    assert (line["low"], line["high"]) == pytest.approx(tuple(interval), abs=1e-9)
    assert result.noise_source == "none"
    assert np.isnan(line["noise"])
    assert not result.subjects["is_reliable"].any()
    assert "unknown" in result.summary()


def test_mean_slope_is_that_of_statsmodels():
    # statsmodels 0.14: combine_effects(slopes, variances, method_re="dl", use_t=True),
    # whose standard error is sd_eff_w_re_hksj.
    gaps = np.array([1.0, 1.5, 2.0, 3.0, 4.0, 2.5])
    slopes = np.array([-0.9, 0.4, -0.6, -0.1, -0.35, -0.8])
    rows = []
    for i, (gap, slope) in enumerate(zip(gaps, slopes, strict=True)):
        for year, run in ((0.0, 1), (0.0, -1), (gap, 1), (gap, -1)):
            rows.append((i, year, slope * year + 0.25 * run))
    table = pd.DataFrame(rows, columns=["participant_id", "time", "x"])
    line = longitudinal_change(table, ["x"]).slopes.iloc[0]
    error, variance = 0.18527508, 12 * 2 * 0.25**2 / 12
    assert line["noise"] == pytest.approx(np.sqrt(variance))
    assert line["slope"] == pytest.approx(-0.37445856, abs=1e-6)
    assert line["standard_error"] == pytest.approx(error, abs=1e-6)
    assert line["deviation"] == pytest.approx(np.sqrt(0.10712556), abs=1e-6)
    half = t.ppf(0.975, 5) * error
    assert line["high"] - line["slope"] == pytest.approx(half, abs=1e-6)


def test_noise_of_repeats_and_reliable_change(rng):
    table = make(rng, visits=(0.0, 1.0), n_runs=2, n_columns=1)
    table.loc[
        table["participant_id"].eq("sub-03") & table["session_id"].eq("ses-1"), "emb_0"
    ] += 5
    result = longitudinal_change(table)
    visits = table.groupby(["participant_id", "session_id"])["emb_0"]
    noise = np.sqrt(visits.var(ddof=1).mean())
    assert (result.noise_source, result.noise_degrees) == ("repeats", 24)
    assert result.slopes["noise"][0] == pytest.approx(noise, abs=1e-9)
    means = visits.mean().to_numpy().reshape(-1, 2)
    rci = (means[:, 1] - means[:, 0]) / noise  # sqrt(1/2 + 1/2) is 1
    np.testing.assert_allclose(result.subjects["rci"], rci, atol=1e-9)
    limit = t.ppf(0.975, 24)
    assert list(result.subjects["is_reliable"]) == list(np.abs(rci) > limit)
    chosen = result.subjects.set_index("subject")
    assert chosen["is_reliable"]["sub-03"]
    assert result.slopes["detectable"][0] == pytest.approx(limit * np.sqrt(2) * noise)


def test_false_positives_are_as_stated(rng):
    # Each column is a cohort without change, whose subjects differ in their slopes.
    table = make(rng, 8, (0.0, 0.5, 3.0), n_columns=1500, slopes=0.1)
    uneven = table.drop(index=[2, 5, 7, 13])
    for n_runs, rows in ((1, uneven), (2, None)):
        if rows is None:
            rows = make(rng, 9, (0.0, 1.5), n_runs, n_columns=1500)
        result = longitudinal_change(rows)
        assert 0.035 < (result.slopes["p"] < 0.05).mean() < 0.07
    assert 0.035 < result.subjects["is_reliable"].mean() < 0.065


@pytest.mark.parametrize("unit", ["days", "dates"])
def test_times_may_be_days_or_dates(rng, unit):
    table = make(rng)
    expected = longitudinal_change(table).slopes
    days = np.round((table["age"] - 50) * 365.25)
    if unit == "dates":
        table["age"] = (
            pd.Timestamp("2020-02-01") + pd.to_timedelta(days, "D")
        ).dt.strftime("%Y-%m-%d")
        found = longitudinal_change(table).slopes
    else:
        table["age"] = days
        found = longitudinal_change(table, time_unit="days").slopes
    np.testing.assert_allclose(found["slope"], expected["slope"], rtol=0.05, atol=1e-3)


def test_short_retests_are_repeats(rng):
    table = make(rng, visits=(0.0, 0.02, 2.0))
    assert longitudinal_change(table).noise_source == "residuals"
    result = longitudinal_change(table, repeats_within=0.1)
    assert (result.noise_source, result.noise_degrees) == ("repeats", 12)


def test_rows_without_time_or_value_are_left_out(rng):
    table = make(rng)
    table.loc[0, "age"] = np.nan
    table.loc[4, "emb_0"] = np.nan
    table.loc[[7, 8], "age"] = np.nan  # one visit is left
    result = longitudinal_change(table)
    assert (result.n_subjects, result.n_scans, result.n_dropped) == (11, 31, 5)


def test_errors_say_what_is_missing(rng):
    table = make(rng)
    with pytest.raises(InputError, match=r"time of each scan.*got participant_id"):
        longitudinal_change(table.drop(columns="age"))
    with pytest.raises(InputError, match="a column 'when' of times"):
        longitudinal_change(table, time="when")
    with pytest.raises(InputError, match="ISO dates in column 'age', got 'old'"):
        longitudinal_change(table.assign(age="old"))
    with pytest.raises(InputError, match="must differ between the sessions"):
        longitudinal_change(table.assign(age=60.0))
    with pytest.raises(InputError, match="a column 'participant_id' of the subject"):
        longitudinal_change(table.drop(columns="participant_id"))
    with pytest.raises(InputError, match="columns of the table, got emb_9"):
        longitudinal_change(table, ["emb_9"])
    with pytest.raises(InputError, match="expected numbers"):
        longitudinal_change(table, ["session_id"])
    with pytest.raises(InputError, match="names of features"):
        longitudinal_change(table, [])
    with pytest.raises(ConfigError, match="confidence"):
        longitudinal_change(table, confidence=95)
    with pytest.raises(ConfigError, match="repeats_within"):
        longitudinal_change(table, repeats_within=-1)
    with pytest.raises(ConfigError, match="time_unit"):
        longitudinal_change(table, time_unit="weeks")
