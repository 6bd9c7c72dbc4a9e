"""``python -m brainfeat``, the same as the command ``brainfeat``."""

from brainfeat.cli.app import main

if __name__ == "__main__":
    main()
