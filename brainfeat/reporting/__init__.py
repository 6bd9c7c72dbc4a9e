"""Pages and figures about results; estimators never draw."""

__all__: list[str] = []
