"""Self-supervised pretraining: views, objectives and the loop."""

__all__: list[str] = []
