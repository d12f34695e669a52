"""Runs the commands of the documents with programs that are built already, and checks the flags of those that it
cannot run.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from documents import NEEDS, Problem

SECONDS = 300
# Stands for cargo: `cargo run` starts the program that is built already.
CARGO = r"""#!{python}
import json, os, sys
with open({table!r}) as file:
    table = json.load(file)
words = sys.argv[1:]
if not words or words[0] not in ("run", "build", "install"):
    sys.exit("error: cargo " + " ".join(words) + ": expected run, build or install, or a mark on the block")
own = words[:words.index("--")] if "--" in words else words
rest = words[len(own) + 1:]
def value(*names):
    for name in names:
        if name in own:
            return own[own.index(name) + 1]
package = value("-p", "--package")
if words[0] == "install":
    places = [place for place in table["packages"] if table["packages"][place]["folder"] == value("--path")]
    package = places[0] if places else None
if package not in table["packages"]:
    sys.exit("error: cargo " + " ".join(words) + ": no such package")
if words[0] != "run":
    sys.exit(0)
name = value("--example", "--bin") or (table["packages"][package]["programs"] or [None])[0]
folder = "examples" if "--example" in own else ""
program = os.path.join(table["target"], folder, str(name))
if not os.path.exists(program):
    sys.exit("error: " + program + " is not built")
os.execv(program, [name, *rest])
"""


class Programs:
    """The programs of the workspace as cargo's tests left them, and what their help says."""

    def __init__(self, metadata, profile):
        self.target = Path(metadata["target_directory"]) / profile
        self.packages = {}
        root = Path(metadata["workspace_root"])
        for package in metadata["packages"]:
            self.packages[package["name"]] = {
                "folder": str(Path(package["manifest_path"]).parent.relative_to(root)),
                "programs": [t["name"] for t in package["targets"] if "bin" in t["kind"]],
                "examples": [t["name"] for t in package["targets"] if "example" in t["kind"]],
            }
        self.names = {name: package for package, p in self.packages.items() for name in p["programs"]}
        self._help = {}

    def missing(self):
        return [name for name in self.names if not (self.target / name).exists()]

    def help(self, program, subcommand=None):
        """The help's text, or None where there is no such subcommand."""
        key = (program, subcommand)
        if key not in self._help:
            words = [self.target / program, *([subcommand] if subcommand else []), "--help"]
            child = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
            self._help[key] = child.stdout if child.returncode == 0 else None
        return self._help[key]

    def subcommands(self, program):
        text = self.help(program) or ""
        listed = re.search(r"^Commands:\n((?:  .*\n|\n)+)", text, re.M)
        return re.findall(r"^  ([a-z][a-z0-9-]*)", listed[1], re.M) if listed else []

    def flags(self, program, subcommand=None):
        return set(re.findall(r"(?<![\w-])(--[a-z0-9][a-z0-9-]*)", self.help(program, subcommand) or "")) | {"--help"}

    def all_flags(self):
        found = set()
        for program in self.names:
            if (self.target / program).exists():
                for subcommand in [None, *self.subcommands(program)]:
                    found |= self.flags(program, subcommand)
        return found

    def wrap(self, folder):
        """Puts programs and a cargo that runs them into a folder for PATH."""
        folder.mkdir()
        for name in self.names:
            (folder / name).symlink_to(self.target / name)
        table = folder / "table.json"
        table.write_text(json.dumps({"packages": self.packages, "target": str(self.target)}))
        cargo = folder / "cargo"
        cargo.write_text(CARGO.format(python=sys.executable, table=str(table)))
        cargo.chmod(0o755)


def command_lines(text):
    """The commands of a block, each as a list of words; pipes and lists are taken apart."""
    text = re.sub(r"\\\n\s*", " ", text)
    for line in text.split("\n"):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>()")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue
        command = []
        for word in [*words, ";"]:
            if re.fullmatch(r"[|;&()]+", word):
                if command:
                    yield command
                command = []
            else:
                command.append(word)


def invocation(words, programs):
    """(program, its arguments) of a command that calls a program of the workspace, else None."""
    words = list(words)
    while words and (re.fullmatch(r"\w+=.*", words[0]) or words[0] in ("sudo", "nice", "time")):
        if words.pop(0) == "sudo" and words and words[0] == "-u":
            words = words[2:]
    if not words:
        return None
    if words[0] == "cargo" and words[1:2] == ["run"] and "-p" in words and "--example" not in words:
        package = words[words.index("-p") + 1]
        names = programs.packages.get(package, {}).get("programs")
        rest = words[words.index("--") + 1 :] if "--" in words else []
        return (names[0], rest) if names else None
    name = words[0].rsplit("/", 1)[-1]
    return (name, words[1:]) if name in programs.names else None


def check_words(words, programs, whole):
    """What is wrong with a command: the package, the subcommand or a flag. `whole`: a command, rather than a name in
    prose."""
    if words[0] == "cargo" and "-p" in words[:-1] and words[words.index("-p") + 1] not in programs.packages:
        return f"no package {words[words.index('-p') + 1]}"
    if words[0] == "cargo" and "--example" in words[:-1]:
        example = words[words.index("--example") + 1]
        if not any(example in p["examples"] for p in programs.packages.values()):
            return f"no example {example}"
    called = invocation(words, programs)
    if not called:
        return None
    program, arguments = called
    known = programs.subcommands(program)
    first = next((word for word in arguments if not word.startswith("-")), None)
    if known and first is None:
        return None if not whole or "--help" in arguments or "--version" in arguments else f"{program}: no command"
    subcommand = first if known else None
    if known and subcommand not in known:
        return f"{program} has no command {subcommand}" if whole or re.fullmatch("[a-z-]+", subcommand) else None
    flags = programs.flags(program, subcommand) | {"--version"}
    for word in arguments:
        if word == "--":
            break
        if re.match(r"--[a-z]", word) and word.split("=")[0] not in flags:
            return f"{' '.join(filter(None, (program, subcommand)))} has no flag {word.split('=')[0]}"
    return None


def flags(documents, programs, elsewhere):
    """Problems of commands and flags that do not exist, in blocks and in the prose. `elsewhere`: flags of scripts and
    of other programs that the prose may name.
    """
    found = []
    every = programs.all_flags() | elsewhere
    for document in documents:
        for block in document.blocks:
            for words in command_lines(block.text):
                wrong = check_words(words, programs, True)
                if wrong:
                    found.append(Problem(document.file, block.line, wrong))
        for line, span in document.spans():
            try:
                words = shlex.split(span)
            except ValueError:
                continue
            if not words:
                continue
            if re.match(r"--[a-z]", words[0]):
                if words[0].split("=")[0] not in every:
                    found.append(Problem(document.file, line, f"no program has the flag {words[0]}"))
            elif len(words) > 1:
                wrong = check_words(words, programs, False)
                if wrong:
                    found.append(Problem(document.file, line, wrong))
    return found


def same(expected, printed):
    """Whether lines were printed as expected, "..." standing for any number of them. Times may differ."""
    timeless = lambda lines: [re.sub(r"\(\d+\.\d ms\)", "(ms)", line).rstrip() for line in lines]
    return _same(timeless(expected), timeless(printed))


def _same(expected, printed):
    if not expected:
        return not printed
    if expected[0].strip() == "...":
        return any(_same(expected[1:], printed[i:]) for i in range(len(printed) + 1))
    return bool(printed) and expected[0] == printed[0] and _same(expected[1:], printed[1:])


class Runner:
    """Runs the blocks of a file one after the other in a copy of the repository."""

    def __init__(self, programs, root, tracked, work, ci):
        self.programs, self.root, self.work = programs, Path(root), Path(work)
        # What CI runs by itself.
        self.ci = ci
        self.counts = {}
        programs.wrap(self.work / "bin")
        self.environment = {
            **os.environ,
            "PATH": f"{self.work / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.work / "home"),
            "HF_HOME": str(self.work / "home" / ".cache" / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            # For scripts that ask git; the copy is no repository.
            "GIT_DIR": subprocess.run(
                ["git", "rev-parse", "--absolute-git-dir"], cwd=root, check=True, capture_output=True, text=True
            ).stdout.strip(),
        }
        (self.work / "home").mkdir()
        self.origin = self.work / "origin"
        for file in tracked:
            if file.startswith("tests/golden/") or not (self.root / file).is_file():
                continue
            (self.origin / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.root / file, self.origin / file)

    def count(self, reason):
        self.counts[reason] = self.counts.get(reason, 0) + 1

    def document(self, document):
        """Problems of a file's blocks."""
        folder, found = None, []
        for block in document.blocks:
            reason = next((NEEDS[need] for need in block.needs if need in NEEDS), None)
            reason = reason or next((need for need in block.needs if not shutil.which(need)), None)
            if reason:
                self.count(f"need {reason}")
                continue
            lines = [" ".join(words) for words in command_lines(block.text)]
            if all(line in self.ci for line in lines):
                self.count("run by .ci/run itself")
                continue
            if folder is None:
                folder = self.work / document.file.replace("/", "-")
                shutil.copytree(self.origin, folder)
            problem = self.block(document, block, folder)
            self.count("run")
            if problem:
                found.append(problem)
        return found

    def block(self, document, block, folder):
        command = ["bash", "-euo", "pipefail", "-c", block.text]
        allowed = [0]
        if block.stop:
            command = ["timeout", "--foreground", "--signal=INT", "--kill-after=20", str(block.stop), *command]
            allowed = [0, 124, 130]
        try:
            child = subprocess.run(
                command, cwd=folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Problem(document.file, block.line, f"not done after {SECONDS} s")
        if child.returncode not in allowed:
            errors = "\n    ".join(child.stderr.strip().split("\n")[-8:])
            return Problem(document.file, block.line, f"exit code {child.returncode}:\n    {errors}")
        printed = child.stdout.rstrip("\n").split("\n")
        if block.output is not None and not same(block.output, printed):
            shown = "\n    ".join(printed[:40])
            return Problem(document.file, block.line, f"prints something else than the block below it:\n    {shown}")
        return None
