"""Transforms between scans, and the fields of displacements that they hold."""

__all__: list[str] = []
