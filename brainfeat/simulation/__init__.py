"""Simulated cohorts: anatomy, disease, contrast and scanner."""

__all__: list[str] = []
