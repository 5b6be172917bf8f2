"""A process whose thread never comes back ends all the same."""

import subprocess
import sys

HANGS = """
import asyncio, logging, time
from streams.leaving import EX_SOFTWARE, leave_within
from streams.log import setup_logging
setup_logging("test")
async def main():
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
    await asyncio.sleep(0.1)
    leave_within({seconds}, "the lane")
    print("done", flush=False)
asyncio.run(main())
"""


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HANGS.format(seconds=0.5)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 70
    assert "the lane has not ended within" in done.stderr and "asyncio_0" in done.stderr
    assert done.stdout == "done\n"  # what was written is out


def test_a_process_that_ends_by_itself_is_not_touched() -> None:
    quiet = "from streams.leaving import leave_within\nleave_within(3600, 'x')"
    done = subprocess.run([sys.executable, "-c", quiet], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_is_told_to_stop_while_it_imports_says_so_and_ends_well() -> None:
    code = "import os; from streams.cli.run import _end_in_words; _end_in_words('vitals'); os.kill(os.getpid(), 15)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == "vitals: told to stop while it was starting; nothing was taken in\n"
