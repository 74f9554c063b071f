"""Runs `deltaworks` as an Airflow task. Put this file into the DAGs folder, or anywhere on the workers' Python path.

    DeltaworksOperator(task_id="batch", arguments=["batch", "--skip-exit-code"], project="/srv/traffic")

What it decides: how an exit code ends a task. What it leaves to Airflow: retries, their delay, pools, timeouts.

| exit code                    | task                                                                        |
|------------------------------|-----------------------------------------------------------------------------|
| 0                            | success; the last line of stdout, parsed as JSON, is the XCom               |
| 99 (with --skip-exit-code)   | skipped                                                                     |
| 2, 3, 6                      | failed, whatever `retries` says: a person has to act                        |
| 1, 4, 5, 7, 130, 143, others | failed, retried as `retries` says: the same command continues               |

Where the task does not succeed, the same JSON is the XCom `result`. When Airflow kills the task, the process gets one
SIGTERM and time to drain. Values of environment variables are neither logged nor rendered.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import time
from threading import Thread
from typing import Any, Callable, Mapping, Sequence

try:  # Airflow 3
    from airflow.sdk import BaseOperator
    from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
except ImportError:  # Airflow 2
    from airflow.exceptions import AirflowException, AirflowFailException, AirflowSkipException
    from airflow.models import BaseOperator

SKIP = 99
MEANINGS = {
    1: "failed, nothing published",
    2: "usage, config or contract",
    3: "an audit or a limit is broken",
    4: "partly done, the same command continues",
    5: "another run was in the way",
    6: "input is no longer complete",
    7: "input is not complete yet",
    130: "interrupted, the next run goes on",
    143: "terminated, the next run goes on",
}
NO_RETRY = {2, 3, 6}

Environment = Mapping[str, str]


class DeltaworksOperator(BaseOperator):
    """Runs the binary to its end.

    :param arguments: what follows `deltaworks` on the command line (templated)
    :param project: the project's folder, as `--project` (templated); it is also where the process runs
    :param binary: the executable's name or path (templated)
    :param env: variables on top of the worker's own, or a function that gets the task's context and returns them, so
        that secrets are fetched when the task runs. Not templated: rendered fields are shown in the UI.
    :param drain_seconds: how long a killed task waits between SIGTERM and SIGKILL
    """

    template_fields: Sequence[str] = ("arguments", "project", "binary")
    ui_color = "#d7ecf5"

    def __init__(
        self,
        *,
        arguments: Sequence[str],
        project: str | None = None,
        binary: str = "deltaworks",
        env: Environment | Callable[[Any], Environment] | None = None,
        drain_seconds: float = 120,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(arguments, str):
            raise TypeError("`arguments` is a list of words, such as ['batch', '--skip-exit-code']")
        self.arguments = arguments
        self.project = project
        self.binary = binary
        self.env = env
        self.drain_seconds = drain_seconds
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> Any:
        project = ["--project", self.project] if self.project else []
        command = [self.binary, *project, *map(str, self.arguments)]
        extra = self.env(context) if callable(self.env) else self.env or {}
        self.log.info("runs `%s`", shlex.join(command))
        try:
            # a session of its own: a signal to the worker's process group would be a second SIGTERM, which ends at once
            self._process = process = subprocess.Popen(
                command,
                cwd=self.project or None,
                env={**os.environ, **extra},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            # a missing binary or folder does not come back by itself
            raise AirflowFailException(f"`{self.binary}` cannot be started: {error}") from error
        last: list[str] = []
        talk = Thread(target=_log_lines, args=(process.stderr, self.log), daemon=True)
        data = Thread(target=_keep_last, args=(process.stdout, last), daemon=True)
        for reader in (talk, data):
            reader.start()
        # Joined before `wait`: `on_kill` comes as a signal into this very thread, and `Popen.wait` holds a lock there.
        for reader in (talk, data):
            reader.join()
        return self._end(context, process.wait(), _parse(last))

    def on_kill(self) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        self.log.info("killed: SIGTERM, and up to %s s to drain", self.drain_seconds)
        process.send_signal(signal.SIGTERM)
        # Polled: a thread whose `join` a timeout has interrupted counts as ended in Python 3.11, so joining tells nothing.
        until = time.monotonic() + self.drain_seconds
        while process.poll() is None:
            if time.monotonic() > until:
                self.log.warning("not drained within %s s: SIGKILL; the next run goes on", self.drain_seconds)
                process.kill()
                return
            time.sleep(0.1)

    def _end(self, context: Any, code: int, result: Any) -> Any:
        """Turns the exit code into the task's end. A negative code is the signal that ended the process."""
        if code < 0:
            code = 128 - code
        if code == 0:
            return result
        if result is not None:
            context["ti"].xcom_push(key="result", value=result)
        if code == SKIP:
            raise AirflowSkipException("nothing to do")
        message = f"`{self.binary}` ended with {code}: {MEANINGS.get(code, 'unexpected')}"
        if isinstance(result, dict) and "error" in result:
            message += f": {result['error']}"
        raise (AirflowFailException if code in NO_RETRY else AirflowException)(message)


def _log_lines(stderr: Any, log: logging.Logger) -> None:
    for line in stderr:
        log.info("%s", line.rstrip())


def _keep_last(stdout: Any, last: list[str]) -> None:
    """Reads to the end and keeps the last line that is not empty."""
    for line in stdout:
        if line.strip():
            last[:] = [line]


def _parse(last: list[str]) -> Any:
    """The result, or None where the command prints rows for people."""
    try:
        return json.loads(last[0]) if last else None
    except ValueError:
        return None
