"""The entry point: it imports nothing that can fail before it can say so, and never ends with Python's own 1."""

import sys

BROKEN = 70


def main() -> None:
    """Run the command line and exit with clipib's codes."""
    try:
        from clipib.cli import app
        from clipib.cli.pipes import outlive_readers
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException:
        import traceback

        traceback.print_exc()
        print(
            "clipib cannot start: the installation is broken. Try: python -m pip install --force-reinstall clipib",
            file=sys.stderr,
        )
        sys.exit(BROKEN)
    outlive_readers()
    app()


if __name__ == "__main__":
    main()
