"""Registration of scans to each other: estimator, features, fields and transforms."""

__all__: list[str] = []


def __dir__() -> list[str]:
    return sorted(__all__)
