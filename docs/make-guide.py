#!/usr/bin/env python3
"""Runs the guide from top to bottom and puts the real outputs into it.

    docs/make-guide.py [--check] [--all] [--bin DIR] [GUIDE]

Everything happens in network, mount and process namespaces of its own, which leave nothing behind; as an ordinary user also
in a user namespace. What the guide means to the script:

    ```console        each line that begins with `$ ` is run, and its output follows it; it must succeed
    ```console fails  the same, but the last command must fail
    ```yaml           is written to the file that its first line names: `# switch.yaml`
    <!-- run: … -->   is run, must succeed, and is not shown; a line each

Times, process numbers, counters and rates differ at each run. An output that differs in nothing else keeps the text that
an earlier run gave it, so that the guide changes only when the switch does; --all takes the new text everywhere.
--check changes nothing and fails where the guide is out of date.
"""

import argparse
import difflib
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSIDE = "VSWITCH_GUIDE_INSIDE"
# No command of the guide takes longer; one that does hangs.
LIMIT_SECONDS = 60


def mask(command, text):
    """The text without what differs at each run."""
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"\b\d\d:\d\d:\d\d(\.\d+)?", "TIME", text)
    text = re.sub(r"\b\d+(\.\d+)? ?ms\b", "MS", text)
    text = re.sub(r"\b(rtt [^=]*=).*", r"\1 MS", text)
    text = re.sub(r"\b(pid|id|seq|ack|seconds) \d+", r"\1 N", text)
    text = re.sub(r"\b\d+(m\d\d)?s\b", "AGE", text)
    text = re.sub(r"\b\d+ (of \d+ MAC addresses|MAC entr)", r"N \1", text)
    if re.search(r"\b(stats|port show|top|metrics|curl|promtool|tshark)\b", command):
        text = re.sub(r"\b\d+(\.\d+)?[kMG]?\b", "N", text)
    return re.sub(r"[ \t]+", " ", text)


class Shell:
    """A bash that lives as long as the guide."""

    def __init__(self, directory, bin_directory):
        environment = dict(os.environ, PATH=f"{bin_directory}:{os.environ['PATH']}", LC_ALL="C.UTF-8", NO_COLOR="1")
        self.process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=directory / "work",
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.number = 0

    def run(self, command):
        """Runs a command; returns its exit status and its output."""
        self.number += 1
        marker = f"--- end of command {self.number}, status "
        self.process.stdin.write(f"{command}\nprintf '\\n{marker}%d\\n' $?\n")
        self.process.stdin.flush()
        watchdog = threading.Timer(LIMIT_SECONDS, self.process.kill)
        watchdog.start()
        output = []
        while True:
            line = self.process.stdout.readline()
            if line == "":
                sys.exit(f"`{command}` did not end within {LIMIT_SECONDS} s; so far:\n{''.join(output)}")
            if line.startswith(marker):
                watchdog.cancel()
                text = "".join(output)
                # The marker begins with a line feed of its own.
                text = text[:-1] if text.endswith("\n") else text
                return int(line[len(marker):]), text
            output.append(line)


def stop(directory, message):
    """Ends with a message and what the daemon said last."""
    log = directory / "work" / "vswitchd.log"
    said = log.read_text()[-2000:] if log.exists() else ""
    sys.exit(f"{message}\nvswitchd.log:\n{said}" if said else message)


def fill(source, shell, directory, take_all):
    """The guide with the outputs of a run."""
    lines = source.split("\n")
    out = []
    at = 0
    while at < len(lines):
        line = lines[at]
        hidden = re.fullmatch(r"<!-- run: (.*) -->", line)
        fence = re.fullmatch(r"```(\w+)( fails)?", line)
        if hidden:
            status, output = shell.run(hidden[1])
            if status != 0:
                stop(directory, f"line {at + 1}: `{hidden[1]}` failed with {status}:\n{output}")
            out.append(line)
            at += 1
        elif fence and fence[1] in ("console", "yaml"):
            end = lines.index("```", at + 1)
            body = lines[at + 1 : end]
            out.append(line)
            if fence[1] == "yaml":
                name = re.fullmatch(r"# ([\w.-]+)", body[0])
                if name:
                    (directory / "work" / name[1]).write_text("\n".join(body) + "\n")
                out.extend(body)
            else:
                out.extend(run_block(body, at, bool(fence[2]), shell, directory, take_all))
            out.append("```")
            at = end + 1
        else:
            out.append(line)
            at += 1
    return "\n".join(out)


def run_block(body, at, fails, shell, directory, take_all):
    """A block of commands with their outputs."""
    commands = []
    for line in body:
        if line.startswith("$ "):
            commands.append(([line], []))
        elif commands and commands[-1][0][-1].endswith("\\"):
            commands[-1][0].append(line)
        elif commands:
            commands[-1][1].append(line)
        else:
            sys.exit(f"line {at + 2}: output before any command")
    out = []
    for number, (shown, old) in enumerate(commands):
        command = "\n".join(shown)[2:]
        status, output = shell.run(command)
        wants_failure = fails and number + 1 == len(commands)
        if (status != 0) != wants_failure:
            stop(directory, f"line {at + 2}: `{command}` ended with status {status}:\n{output}")
        new = output.rstrip("\n").split("\n") if output.strip() else []
        # A block that parts its outputs with empty lines keeps doing so.
        gap = [""] if old and old[-1] == "" and number + 1 < len(commands) else []
        old = old[:-1] if gap else old
        same = mask(command, "\n".join(old)) == mask(command, "\n".join(new))
        out.extend(shown + (old if same and not take_all else new) + gap)
    return out


def inside(arguments):
    """The work itself, in namespaces of its own."""
    guide = Path(arguments.guide)
    source = guide.read_text()
    with tempfile.TemporaryDirectory(prefix="vswitch-guide-") as name:
        directory = Path(name)
        (directory / "work").mkdir()
        # The usual places are empty and private here: /run/vswitch, /run/netns, /var/lib/vswitch.
        for place in ("/run", "/var/lib"):
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        shell = Shell(directory, arguments.bin)
        filled = fill(source, shell, directory, arguments.all)
        # What the guide has started ends with it.
        shell.process.stdin.close()
    if filled == source:
        print(f"{guide}: up to date")
        return
    difference = difflib.unified_diff(source.split("\n"), filled.split("\n"), "before", "after", lineterm="", n=1)
    print("\n".join(difference))
    if arguments.check:
        sys.exit(f"{guide} is out of date; `cargo xtask guide` brings it up to date")
    guide.write_text(filled)
    print(f"{guide}: brought up to date")


def main():
    parser = argparse.ArgumentParser(description="Runs the guide and puts the real outputs into it.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the guide is out of date")
    parser.add_argument("--all", action="store_true", help="take the new output also where only times and counts differ")
    parser.add_argument("--bin", default=ROOT / "target" / "debug", help="where vswitchd and vswitchctl are")
    parser.add_argument("guide", nargs="?", default=ROOT / "docs" / "guide.md")
    arguments = parser.parse_args()
    for program in ("vswitchd", "vswitchctl"):
        if not (Path(arguments.bin) / program).exists():
            sys.exit(f"there is no {program} in {arguments.bin}; `cargo build` makes it, or name its place with --bin")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        sys.exit("the guide makes TAPs, and /dev/net/tun may not be opened here; run it as root")
    arguments.bin = Path(arguments.bin).resolve()
    if os.environ.get(INSIDE) != "1":
        unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        if os.geteuid() != 0:
            unshare += ["--user", "--map-root-user"]
        os.environ[INSIDE] = "1"
        os.execvp("unshare", unshare + [sys.executable] + sys.argv)
    inside(arguments)


if __name__ == "__main__":
    main()
