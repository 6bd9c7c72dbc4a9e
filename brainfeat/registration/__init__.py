"""Registration of scans to each other: estimator, features, fields and transforms."""

__all__: list[str] = []
