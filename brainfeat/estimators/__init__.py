"""Estimators with scikit-learn's contract."""

__all__: list[str] = []
