"""One run of `tools/gpu.py`: its log, its time limit, what it has found so far. Standard library only."""

import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GRACE = 20  # seconds for a part to end by itself once it is asked to


class Session:
    """One run: where it writes, when it ends, what it has found so far."""

    def __init__(self, given, out):
        self.given, self.out, self.end = given, out, time.monotonic() + given.limit
        self.environment = dict(os.environ)
        out.mkdir(parents=True, exist_ok=True)
        self.log = open(out / "gpu.log", "w", buffering=1)  # noqa: SIM115 - open until the end
        self.result = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "device": given.device,
            "limit": given.limit,
            "python": sys.version,
            "skipped": {},
            "failed": {},
            "cut": [],
        }

    def say(self, line):
        print(line, flush=True)
        self.log.write(f"{line}\n")

    def left(self):
        """Seconds until the limit, without those in which the last part may end."""
        return self.end - time.monotonic() - GRACE

    def keep(self):
        """Write what there is, in one step."""
        partial = self.out / "gpu.json.partial"
        partial.write_text(json.dumps(self.result, indent=1) + "\n")
        partial.replace(self.out / "gpu.json")

    def run(self, part, command, seconds, quiet=False):
        """Run a Python command as a part and return its output; at its time limit it is asked to end, then ended."""
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that all it has started can be ended with it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        said = []

        def listen():
            for line in process.stdout:
                said.append(line)
                self.log.write(line) if quiet else self.say(line.rstrip())

        listener = threading.Thread(target=listen)
        listener.start()
        try:
            process.wait(timeout=max(1, seconds))
        except subprocess.TimeoutExpired:
            self.say(f"{part}: time is up, after {seconds:.0f} s")
            self.result["cut"].append(part)
        finally:  # at Ctrl-C too
            _end(process)
            listener.join(timeout=5)
        if process.returncode and part not in self.result["cut"]:
            self.result["failed"][part] = said[-1].strip() if said else f"exit status {process.returncode}"
        return "".join(said)


def _end(process):
    """End a part and whatever it has started: first as Ctrl-C does, then for good."""
    for sign, patience in ((signal.SIGINT, GRACE - 5), (signal.SIGKILL, 5)):
        if process.poll() is None:
            os.killpg(process.pid, sign)
            try:
                process.wait(timeout=patience)
            except subprocess.TimeoutExpired:
                continue
    try:
        os.killpg(process.pid, signal.SIGKILL)  # what is left of its group
    except ProcessLookupError:
        pass
