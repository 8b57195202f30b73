"""Runs commands and prints what they took: the one parent whose children are measured.

A program of its own, without imports of ours: the kernel counts the memory that a parent has when
it forks as its child's. Stages come as JSON on standard input. The commands of one stage run at the
same time, the stages one after the other; the first that fails is the last.
"""

import json
import resource
import subprocess
import sys
import time


def main() -> None:
    stages = json.load(sys.stdin)
    failed = 0
    began = time.perf_counter()
    for stage in stages:
        # What they print goes on to the log that our parent gave us.
        running = [
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
            for command in stage
        ]
        failed = next(filter(None, [each.wait() for each in running]), 0)
        if failed:
            break
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss / 1024,
        "status": failed,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
