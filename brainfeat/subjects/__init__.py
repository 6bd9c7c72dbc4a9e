"""Subjects, and where they come from: lists, manifests, BIDS folders."""

__all__: list[str] = []
