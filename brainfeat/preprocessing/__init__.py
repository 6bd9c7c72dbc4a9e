"""From a volume in scanner space to the encoder's grid."""

__all__: list[str] = []  # training from a store needs no SimpleITK
