"""Runs the command-line tools of Apache Kafka, which use its Java client."""

import subprocess

from deploy.local.processes import StackError, plain_environment
from deploy.servers.apache_kafka import KAFKA_VERSION, LOG4J_VERSION, java
from deploy.servers.maven import Jars

TOOLS = Jars(
    f"kafka-tools-{KAFKA_VERSION}",
    [
        ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION),
    ],
)


def missing() -> str | None:
    """Returns a text that says what this machine lacks for the tools, or None."""
    return "Java 17 or newer is missing" if java() is None else TOOLS.missing()


def run_tool(main: str, *arguments: str, given: bytes = b"", seconds: float = 120) -> str:
    """Runs a tool with `given` as its standard input. Returns its output. Raises StackError if it fails."""
    command = [java() or "java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{TOOLS.folder()}/*"]
    done = subprocess.run(
        [*command, f"org.apache.kafka.tools.{main}", *arguments],
        input=given,
        env=plain_environment(),
        capture_output=True,
        timeout=seconds,
        check=False,
    )
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode or "ERROR" in said:  # the console producer ends with status 0 where records were not sent
        raise StackError(f"{main} failed: {said}")
    return said
