"""`python -m pipeline` is the `regsearch` command."""

import signal


def command() -> None:
    """The entry point. Until the commands are loaded, which takes a moment, Ctrl-C just ends the
    process: Python would print a traceback of what was being imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pipeline import cli

    cli.command()


if __name__ == "__main__":
    command()
