"""Change of features within subjects, between their sessions."""

__all__ = ["LongitudinalChange", "longitudinal_change"]

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from brainfeat.display.summarised import Summarised
from brainfeat.evaluation.resampling import adjust_by_holm
from brainfeat.evaluation.scan_times import ScanTimes, TimeUnit, read_scan_times
from brainfeat.evaluation.slopes import Lines, fit_lines, mean_slope, pooled_noise
from brainfeat.exceptions import ConfigError, InputError, list_names

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_MOST_LISTED = 12
_MIN_SUBJECTS = 3


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LongitudinalChange(Summarised):
    """Result of `longitudinal_change`.

    Parameters
    ----------
    columns : tuple of str
        The features.
    n_subjects, n_scans : int
        Subjects with scans at different times, and their scans.
    n_dropped : int
        Rows that lack a time or a value, or whose subject has no second visit; repeats
        among them still count for the noise.
    noise_source : {"repeats", "residuals", "none"}
        Scans of one visit, or else deviations from the lines of subjects with three
        scans; "none" if there are neither.
    noise_degrees : int
        Degrees of freedom of the noise.
    slopes : DataFrame
        A line a column: mean ``slope`` per year, ``standard_error``, ``low``, ``high``,
        ``p``, ``p_holm``, ``deviation`` (standard deviation of true slopes between
        subjects), ``noise`` (standard deviation of one scan) and ``detectable`` (least
        change between two scans that is reliable).
    subjects : DataFrame
        A line a subject and column: ``n_scans``, ``years`` between first and last
        visit, ``change``, ``slope`` per year with its ``standard_error`` from the
        noise, ``rci`` (change over its standard error) and ``is_reliable``.
    confidence : float
        Of intervals, and of a reliable change.
    """

    columns: tuple[str, ...]
    n_subjects: int
    n_scans: int
    n_dropped: int
    noise_source: str
    noise_degrees: int
    slopes: pd.DataFrame
    subjects: pd.DataFrame
    confidence: float

    def summary(self) -> str:
        """Summarise the slopes as a few lines of text, the clearest first."""
        source = {
            "repeats": "repeats of a visit",
            "residuals": "deviations from the lines of subjects",
            "none": "unknown without repeats and subjects with three scans",
        }[self.noise_source]
        lines = [
            f"{self.n_scans} scans of {self.n_subjects} subjects, "
            f"{self.confidence:.0%} intervals over subjects",
            f"noise: {source} ({self.noise_degrees} degrees of freedom)",
        ]
        order = self.slopes["p"].fillna(1.0).argsort(kind="stable")
        for row in self.slopes.iloc[order[:_MOST_LISTED]].to_dict("records"):
            lines.append(
                f"{row['column']}: {row['slope']:+.4g} [{row['low']:.4g}, "
                f"{row['high']:.4g}] per year, p = {row['p']:.3f}, adjusted "
                f"{row['p_holm']:.3f}; noise {row['noise']:.4g}"
            )
        if len(self.slopes) > _MOST_LISTED:
            lines.append(f"and {len(self.slopes) - _MOST_LISTED} more columns")
        return "\n".join(lines)


def longitudinal_change(
    table: pd.DataFrame,
    columns: Sequence[str] | None = None,
    *,
    time: str | None = None,
    time_unit: TimeUnit = "years",
    subject: str = "participant_id",
    session: str = "session_id",
    repeats_within: float = 0.0,
    confidence: float = 0.95,
) -> LongitudinalChange:
    """Measure how features change within subjects over time.

    A line is fitted to the scans of each subject by least squares; the mean of slopes
    is weighted by their variance between subjects and the noise of each [1]_, with a
    variance that holds for few subjects [2]_. A change is reliable if it exceeds the
    noise of two scans [3]_.

    Parameters
    ----------
    table : DataFrame
        A row a scan, such as `read_embeddings` gives, joined with its features.
    columns : sequence of str, optional
        Features to follow; by default all ``emb_*``.
    time : str, optional
        Column of the time of a scan: numbers such as the age at the scan, or dates. By
        default the first of ``age``, ``age_at_scan``, ``time``, ``years``,
        ``acq_time``, ``scan_date`` and ``date``.
    time_unit : {"years", "months", "days"}
        Of numbers in ``time``.
    subject, session : str
        Columns of subjects, and of sessions where there are some. Rows of a session
        are repeats of one visit.
    repeats_within : float
        Scans of a subject at most so many years apart are repeats of one visit too.
    confidence : float
        Of intervals, and of a reliable change, between 0 and 1.

    Returns
    -------
    LongitudinalChange
        Slopes per year, noise, and the change of each subject.

    Raises
    ------
    ConfigError
        If ``confidence`` is not between 0 and 1, ``repeats_within`` is negative, or
        ``time_unit`` is unknown.
    InputError
        If a column is missing or is not of numbers, or fewer than three subjects have
        scans at different times.

    Notes
    -----
    Noise of repeats in one session leaves out what differs between days, such as
    positioning and the scanner's state: ``repeats_within`` takes short retests as
    repeats, too.

    References
    ----------
    .. [1] DerSimonian & Laird, "Meta-analysis in clinical trials", Controlled Clinical
       Trials 7, 1986. doi:10.1016/0197-2456(86)90046-2
    .. [2] Hartung & Knapp, "A refined method for the meta-analysis of controlled
       clinical trials with binary outcome", Statistics in Medicine 20, 2001.
       doi:10.1002/sim.1009
    .. [3] Jacobson & Truax, "Clinical significance", Journal of Consulting and Clinical
       Psychology 59, 1991. doi:10.1037/0022-006X.59.1.12

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame({"participant_id": np.repeat(range(20), 3)})
    >>> table["age"] = 60.0 + np.tile([0, 1, 2], 20)
    >>> table["volume"] = 900.0 - 5.0 * table["age"] + rng.normal(size=60)
    >>> result = longitudinal_change(table, ["volume"])
    >>> result.slopes[["slope", "noise"]].round().values.tolist()
    [[-5.0, 1.0]]
    """
    _check_settings(repeats_within, confidence)
    values, names = _read_values(table, columns)
    times = read_scan_times(
        table,
        time=time,
        time_unit=time_unit,
        subject=subject,
        session=session,
        repeats_within=repeats_within,
    )
    times = times.take(np.asarray(np.isfinite(values[times.rows]).all(axis=1)))
    followed = times.of_followed() if len(times.rows) else times
    n_subjects = len(np.unique(followed.subjects))
    if n_subjects < _MIN_SUBJECTS:
        raise InputError(
            f"table: expected at least {_MIN_SUBJECTS} subjects with scans at "
            f"different times, got {n_subjects} of {len(set(times.subjects))}; the "
            "time must differ between the sessions of a subject."
        )
    lines = fit_lines(followed.subjects, followed.years, values[followed.rows])
    noise = _find_noise(times, values, lines)
    return LongitudinalChange(
        columns=names,
        n_subjects=n_subjects,
        n_scans=len(followed.rows),
        n_dropped=len(table) - len(followed.rows),
        noise_source=noise.source,
        noise_degrees=noise.n_free,
        slopes=_describe_slopes(names, lines, noise, confidence),
        subjects=_describe_subjects(names, followed, values, lines, noise, confidence),
        confidence=confidence,
    )


def _check_settings(repeats_within: float, confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ConfigError(f"confidence: expected a number in (0, 1), got {confidence}.")
    if not repeats_within >= 0.0:
        raise ConfigError(
            f"repeats_within: expected years of at least 0, got {repeats_within}."
        )


def _read_values(
    table: pd.DataFrame, columns: Sequence[str] | None
) -> tuple[Floats, tuple[str, ...]]:
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"table: expected a DataFrame, got {type(table).__name__}.")
    if columns is None:
        columns = [str(name) for name in table.columns if str(name).startswith("emb_")]
    if isinstance(columns, str) or not len(columns):
        raise InputError(f"columns: expected names of features, got {columns!r}.")
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(
            f"columns: expected columns of the table, got {list_names(missing)}."
        )
    try:
        values = table[list(columns)].to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"columns: expected numbers ({error}).") from error
    return values, tuple(map(str, columns))


class _Noise(NamedTuple):
    """Variance of one scan, its degrees of freedom, and what it is from."""

    variance: Floats | None  # n_columns
    n_free: int
    source: str

    def filled(self, n_columns: int) -> Floats:
        """Variances, NaN if they are unknown."""
        unknown = np.full(n_columns, np.nan)
        return unknown if self.variance is None else self.variance

    def limit(self, confidence: float) -> float:
        """Return the standard errors from which a change is reliable."""
        if not self.n_free:
            return np.nan
        return float(student.ppf((1.0 + confidence) / 2.0, self.n_free))


def _find_noise(times: ScanTimes, values: Floats, lines: Lines) -> _Noise:
    variance, n_free = pooled_noise(times.visits, values[times.rows])
    if n_free:
        return _Noise(variance, n_free, "repeats")
    if lines.n_free > 0:
        return _Noise(lines.residual / lines.n_free, lines.n_free, "residuals")
    return _Noise(None, 0, "none")


def _describe_slopes(
    names: tuple[str, ...], lines: Lines, noise: _Noise, confidence: float
) -> pd.DataFrame:
    mean = mean_slope(lines, noise.variance, confidence)
    deviation = np.sqrt(noise.filled(len(names)))
    return pd.DataFrame(
        {
            "column": names,
            "slope": mean.value,
            "standard_error": mean.standard_error,
            "low": mean.low,
            "high": mean.high,
            "p": mean.p_value,
            "p_holm": adjust_by_holm(list(mean.p_value)),
            "deviation": mean.deviation,
            "noise": deviation,
            "detectable": noise.limit(confidence) * np.sqrt(2.0) * deviation,
        }
    )


def _describe_subjects(
    names: tuple[str, ...],
    followed: ScanTimes,
    values: Floats,
    lines: Lines,
    noise: _Noise,
    confidence: float,
) -> pd.DataFrame:
    """Return a line a subject and column, by subject."""
    codes, counts = np.unique(followed.subjects, return_counts=True)
    change, years, spread = [], [], []
    for rows in np.split(np.arange(len(followed.rows)), np.cumsum(counts)[:-1]):
        visits = followed.visits[rows]
        first, last = rows[visits == visits[0]], rows[visits == visits[-1]]
        means = [values[followed.rows[ends]].mean(axis=0) for ends in (first, last)]
        change.append(means[1] - means[0])
        times = [followed.years[ends].mean() for ends in (first, last)]
        years.append(times[1] - times[0])
        spread.append(1.0 / len(first) + 1.0 / len(last))
    variance, n_columns = noise.filled(len(names)), len(names)
    error = np.sqrt(np.outer(spread, variance))
    rci = np.full(error.shape, np.nan)
    np.divide(np.array(change), error, out=rci, where=error > 0)
    limit = noise.limit(confidence)
    return pd.DataFrame(
        {
            "subject": np.repeat([followed.names[code] for code in codes], n_columns),
            "column": np.tile(names, len(codes)),
            "n_scans": np.repeat(counts, n_columns),
            "years": np.repeat(years, n_columns),
            "change": np.ravel(change),
            "slope": lines.slopes.ravel(),
            "standard_error": np.sqrt(np.outer(1.0 / lines.spread, variance)).ravel(),
            "rci": rci.ravel(),
            "is_reliable": (np.abs(rci) > limit).ravel(),
        }
    )
