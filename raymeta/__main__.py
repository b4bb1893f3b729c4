"""The command line, by `raymeta` or `python -m raymeta`."""

import signal
import sys

INTERRUPTED = 130  # as a shell says of what Ctrl-C has ended


def main() -> None:
    """`raymeta.cli.main` as a process of its own, whose signals are its own.

    Ctrl-C before it begins and after it is done ends the process as the system does, without a traceback.
    """
    before = signal.getsignal(signal.SIGINT)
    quick = before if before == signal.SIG_IGN else signal.SIG_DFL  # ignored: it runs in a shell's background
    signal.signal(signal.SIGINT, quick)
    from raymeta.cli import main as run
    from raymeta.cli.common import hear_signals

    signal.signal(signal.SIGINT, before)
    hear_signals()
    try:
        run()
    except KeyboardInterrupt:  # another one, while the first was answered
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, quick)


if __name__ == "__main__":
    main()
