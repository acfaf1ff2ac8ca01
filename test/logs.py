"""What a process says, line by line: collected by a thread, and waited for."""
import os
import re
import threading
import time

SLOW = float(os.environ.get("WSSD_SLOW", "1"))


class Logged:
    """A process whose output is read to its end. log: the lines so far; mark: where a look begins unless told."""

    def follow(self, stream):
        self.log, self.cond, self.mark, self.eof = [], threading.Condition(), 0, False
        self.thread = threading.Thread(target=self._collect, args=(stream,), daemon=True)
        self.thread.start()

    def _collect(self, stream):
        for line in stream:
            with self.cond:
                self.log.append(line.decode("utf-8", "backslashreplace").rstrip("\n"))
                self.cond.notify_all()
        with self.cond:
            self.eof = True
            self.cond.notify_all()

    def lines(self, since=None):
        """The log since the mark (or from line number since)."""
        with self.cond:
            return self.log[self.mark if since is None else since:]

    def here(self):
        """A position in the log, for since=."""
        with self.cond:
            return len(self.log)

    def wait_log(self, regex, timeout=10.0, since=None):
        """Waits for a line that matches (searched from the mark, or from line number since); returns the match."""
        i = self.mark if since is None else since
        pattern, end = re.compile(regex), time.monotonic() + timeout * SLOW
        with self.cond:
            while True:
                while i < len(self.log):
                    m = pattern.search(self.log[i])
                    if m:
                        return m
                    i += 1
                left = end - time.monotonic()
                if left <= 0 or self.eof:
                    raise AssertionError("no line matches %r:\n%s" % (regex, "\n".join(self.log[-30:])))
                self.cond.wait(left)
