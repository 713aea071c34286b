"""The `mlpass` command; `python -m mlpass` is the same."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Until the command hears it, Ctrl-C ends it without a word, not with a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from mlpass.cli import run

if __name__ == "__main__":
    run()
