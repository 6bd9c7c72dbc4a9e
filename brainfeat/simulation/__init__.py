"""Simulated cohorts: anatomy, disease, contrast and scanner, drawn then applied."""

__all__: list[str] = []
