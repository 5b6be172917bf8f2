"""Leaving in time, whatever hangs: a thread that never comes back must not keep alive a process that is to be started again.

Python joins the threads of its executors before it ends (`threading._shutdown`), and asyncio waits for its own. A model that
never answers, or a store on a network that is gone, would so keep a process for ever whose lane has stopped, and no supervisor
starts it again.
"""

import logging
import os
import sys
import threading

log = logging.getLogger("vigil.leaving")

EX_SOFTWARE = 70  # sysexits.h


def leave_within(seconds: float, what: str, *, status: int = EX_SOFTWARE) -> None:
    """End this process, once so many seconds have gone by, should it still be there.

    To be called when all that was done is confirmed, or is to be done again: nothing is waited for then. May be called again: the
    first to run out ends the process. `status` is the exit code.
    """
    timer = threading.Timer(seconds, _leave, (seconds, what, status))
    timer.daemon = True  # it is no reason to stay, and goes on while Python joins the others
    timer.start()


def _leave(seconds: float, what: str, status: int) -> None:
    try:
        threads = ", ".join(thread.name for thread in threading.enumerate() if not thread.daemon and thread.is_alive())
        log.critical("%s has not ended within %.0f s (threads: %s): the process ends", what, seconds, threads)
        for handler in logging.getLogger().handlers:
            handler.flush()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)
