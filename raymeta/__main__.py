"""The command line, by `raymeta` or `python -m raymeta`."""

import signal


def main() -> None:
    """`raymeta.cli.main`; Ctrl-C while it is imported ends the process as the system does, without a traceback."""
    before = signal.getsignal(signal.SIGINT)  # or it is ignored, in a shell's background
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from raymeta.cli import main as run

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
