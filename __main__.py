"""``python -m hopflow`` is the ``hopflow`` command."""

from .workflows.cli import main

if __name__ == "__main__":
    main()
