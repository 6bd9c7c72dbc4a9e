"""Reports and figures: estimators never draw."""

__all__: list[str] = []
