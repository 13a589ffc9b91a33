"""The command line in a process of its own, which takes one command after the other: huggingface_hub reads its settings
at import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TOKEN = "hf_secretsecretsecretsecret"

CHILD = """
import contextlib, io, json, sys
from uniformer.cli.main import main
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(json.loads(line))
    print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
"""


class Client:
    """A process that runs commands, and all that it has said."""

    def __init__(self, url: str, home: Path, log: Path, temporary: Path, xet: bool = False):
        self.temporary = temporary
        temporary.mkdir(exist_ok=True)
        env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        env.pop("HF_HUB_OFFLINE", None)
        env |= {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": str(int(not xet))}
        env |= {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        env |= {"TMPDIR": str(temporary), "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "1"}
        self.log = log
        self.stderr = log.open("w")
        self.child = subprocess.Popen(
            [sys.executable, "-c", CHILD], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr,
        )  # fmt: skip

    def ask(self, *command: str | Path) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(list(map(str, command))) + "\n")
        self.child.stdin.flush()

    def close(self) -> None:
        self.child.communicate()
        self.stderr.close()

    def __call__(self, *command: str | Path, status: int = 0) -> str:
        """What was said: by a refusal, in one line."""
        self.ask(*command)
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        assert line, self.log.read_text()
        ended, out, err = json.loads(line)
        assert TOKEN not in out + err + self.log.read_text()
        assert ended == status, err
        if status:
            assert err.count("\n") == 1, err
        return err if status else out
