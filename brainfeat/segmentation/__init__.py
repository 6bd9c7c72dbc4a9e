"""Label maps from a few labelled scans."""

__all__: list[str] = []
