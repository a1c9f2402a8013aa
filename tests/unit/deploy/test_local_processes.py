"""Programs of the local stack are found and stopped by later commands; other programs are never signalled."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.processes import LOOPBACK, Program, StackError, free_port, plain_environment, wait_until

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""
STUBBORN = [sys.executable, "-c", DEAF]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program("sleeper", tmp_path / "sleeper.json", tmp_path / "sleeper.log")
    yield program
    program.stop((signal.SIGKILL, 10))


def found_again(program: Program) -> Program:
    """Returns the program as the next command sees it, from its record only."""
    return Program(program.name, program.record, program.log)


def test_a_program_is_found_again_and_stopped_by_the_next_command(program: Program) -> None:
    program.start(SLEEPER, env=plain_environment())
    later = found_again(program)
    assert later.running()
    assert later.stop((signal.SIGTERM, 10))
    assert not program.running()


def test_stopping_what_does_not_run_says_so(program: Program) -> None:
    assert not program.stop((signal.SIGTERM, 10))


def test_a_program_that_ended_by_itself_does_not_run(program: Program) -> None:
    program.start([sys.executable, "-c", ""], env=plain_environment())
    assert wait_until(lambda: not program.running(), 10)


@pytest.mark.parametrize("changed", ["start time", "arguments"])
def test_another_program_with_the_same_pid_is_never_signalled(program: Program, changed: str) -> None:
    with subprocess.Popen(SLEEPER) as stranger:
        program.adopt(stranger.pid, SLEEPER)
        assert wait_until(program.running, 10)
        pid, started, argv = json.loads(program.record.read_text())
        kept = [pid, started + 1, argv] if changed == "start time" else [pid, started, [*argv, "other"]]
        program.record.write_text(json.dumps(kept))

        assert not program.stop((signal.SIGKILL, 10))
        assert stranger.poll() is None
        stranger.kill()


def test_an_invalid_record_means_that_nothing_runs(program: Program) -> None:
    program.record.write_text("{")
    assert not program.running()


def test_a_program_that_ignores_one_signal_gets_the_next(program: Program) -> None:
    program.start(STUBBORN, env=plain_environment())
    assert wait_until(lambda: "deaf" in program.last_lines(), 10)
    assert program.stop((signal.SIGTERM, 0.1), (signal.SIGKILL, 10))


def test_a_program_that_outlives_all_signals_is_an_error_that_names_it(program: Program) -> None:
    program.start(STUBBORN, env=plain_environment())
    assert wait_until(lambda: "deaf" in program.last_lines(), 10)
    with pytest.raises(StackError, match="sleeper"):
        program.stop((signal.SIGTERM, 0.1))


def test_a_log_can_be_read_by_its_owner_alone(program: Program) -> None:
    program.start(SLEEPER, env=plain_environment())
    assert program.log.stat().st_mode & 0o077 == 0


def test_a_program_has_a_session_of_its_own_so_that_ctrl_c_does_not_reach_it(program: Program) -> None:
    program.start(SLEEPER, env=plain_environment())
    identity = program.identity()
    assert identity is not None
    assert os.getsid(identity.pid) == identity.pid


def test_a_port_in_use_is_skipped() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
