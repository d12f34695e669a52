"""What a Markdown file holds, and the checks that need no program: lengths, links, paths, the dependency table."""

import re
from dataclasses import dataclass, field
from pathlib import Path

README_LINES = 130
CELL_CHARACTERS = 80
# Reasons why a block of commands does not run here. Any other need names a program, and the block runs where that is
# installed.
NEEDS = {"board": "a board", "network": "a download", "long": "minutes or hours", "root": "an administrator"}


@dataclass
class Problem:
    """Something wrong, and where."""

    file: str
    line: int
    text: str

    def __str__(self):
        return f"{self.file}:{self.line}: {self.text}"


@dataclass
class Block:
    """A fenced block of commands."""

    file: str
    line: int
    text: str
    needs: list[str] = field(default_factory=list)
    # Seconds after which Ctrl-C ends it.
    stop: int | None = None
    # Lines of the ```text block that follows; "..." stands for any number of lines.
    output: list[str] | None = None


class Document:
    """A Markdown file."""

    def __init__(self, file, text):
        self.file = file
        self.lines = text.split("\n")
        if self.lines and not self.lines[-1]:
            self.lines.pop()
        # Lines outside fenced blocks, by number from 1.
        self.prose = []
        self.blocks = []
        self.fences = []
        self.problems = []
        self._parse()

    def _problem(self, line, text):
        self.problems.append(Problem(self.file, line, text))

    def _parse(self):
        marks, fence, start, body, last = {}, None, 0, [], None
        for number, line in enumerate(self.lines, 1):
            if fence is None:
                opening = re.fullmatch(r"( *)```(\w*)", line)
                if opening:
                    fence, start, body = opening, number, []
                    continue
                self.prose.append((number, line))
                mark = re.fullmatch(r" *<!-- (needs|stop): ([^>]*) -->", line)
                if mark:
                    marks[mark[1]] = (number, mark[2].strip())
                elif line.strip():
                    if marks:
                        self._problem(next(iter(marks.values()))[0], "a mark must stand on the line before a ```sh block")
                    marks, last = {}, None
            elif line.strip() == "```":
                indent = len(fence[1])
                text = "\n".join(part[indent:] if part[:indent].isspace() else part for part in body)
                self.fences.append((start, fence[2], text))
                if fence[2] == "sh":
                    last = self._block(start, text, marks)
                elif fence[2] == "text" and last is not None and not last.needs:
                    last.output = text.split("\n")
                    last = None
                fence, marks = None, {}
            else:
                body.append(line)
        if fence is not None:
            self._problem(start, "this block has no end")

    def _block(self, line, text, marks):
        block = Block(self.file, line, text)
        if "needs" in marks:
            block.needs = [need.strip() for need in marks["needs"][1].split(",")]
        if "stop" in marks:
            if marks["stop"][1].isdecimal():
                block.stop = int(marks["stop"][1])
            else:
                self._problem(marks["stop"][0], "stop: expected a number of seconds")
        self.blocks.append(block)
        return block

    def anchors(self):
        """The anchors of the headings, as GitHub makes them."""
        found = set()
        for _, line in self.prose:
            heading = re.fullmatch(r"#{1,6} +(.*?) *#*", line)
            if not heading:
                continue
            text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            anchor, count = slug, 0
            while anchor in found:
                count += 1
                anchor = f"{slug}-{count}"
            found.add(anchor)
        return found

    def links(self):
        """(line, target) of every link and picture in the prose."""
        for number, line in self.prose:
            plain = re.sub(r"`[^`]*`", lambda code: " " * len(code[0]), line)
            for link in re.finditer(r"\]\(<?([^)\s>]+)>?(?: +\"[^\"]*\")?\)", plain):
                yield number, link[1]
            for link in re.finditer(r"(?:src|href)=\"([^\"]+)\"", plain):
                yield number, link[1]

    def spans(self):
        """(line, text) of every code span in the prose, those over a line's end too."""
        numbers, text = [], ""
        for number, line in self.prose:
            if not line.strip():
                text += "\0"
                numbers.append(number)
                continue
            text += line + "\n"
            numbers += [number] * (len(line) + 1)
        for span in re.finditer(r"(`+)([^`\0]+?)\1(?!`)", text):
            yield numbers[span.start()], " ".join(span[2].split())

    def tables(self):
        """Every table: a list of (line, cells), the header first, without the row of dashes."""
        table = []
        for number, line in [*self.prose, (0, "")]:
            if line.startswith("|"):
                cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
                if not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
                    table.append((number, cells))
            elif table:
                yield table
                table = []


def sizes(document):
    """Problems of the README's length and of cells that are too long to read."""
    found = []
    if len(document.lines) > README_LINES:
        found.append(
            Problem(document.file, len(document.lines), f"{len(document.lines)} lines, expected at most {README_LINES}")
        )
    for table in document.tables():
        for line, cells in table:
            for cell in cells:
                shown = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", cell).replace("`", "")
                if len(shown) > CELL_CHARACTERS:
                    found.append(
                        Problem(document.file, line, f"a cell of {len(shown)} characters, expected at most {CELL_CHARACTERS}")
                    )
    return found


def links(document, root, documents):
    """Problems of links to files and headings of the repository. `documents`: file to Document."""
    found = []
    for line, target in document.links():
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (Path(root) / document.file).parent / path if path else Path(root) / document.file
        if not file.exists():
            found.append(Problem(document.file, line, f"link to {path}, which does not exist"))
            continue
        name = str(file.resolve().relative_to(Path(root).resolve()))
        if anchor and name in documents and anchor not in documents[name].anchors():
            found.append(Problem(document.file, line, f"link to {target}: {name} has no such heading"))
    return found


def paths(document, root, tracked):
    """Problems of code spans that name a file or folder of the repository. `tracked`: its files."""
    found = []
    folders = {file.split("/")[0] for file in tracked if "/" in file}
    for line, span in document.spans():
        word = span.split(" ")[0].rstrip(":,")
        first = word.split("/")[0]
        if "/" not in word or first not in folders or re.search(r"[<>$]|[A-Z]{4,}", word):
            continue
        for path in _expand(word):
            if not any(Path(root).glob(path.rstrip("/"))):
                found.append(Problem(document.file, line, f"`{path}` does not exist"))
    return found


def _expand(word):
    """{a,b} of shells."""
    braces = re.search(r"\{([^{}]*)\}", word)
    if not braces:
        return [word]
    return [
        path
        for part in braces[1].split(",")
        for path in _expand(word[: braces.start()] + part + word[braces.end() :])
    ]


def dependencies(document, packages):
    """Problems of the table of crates: it must name every package, and for each exactly the packages of the workspace
    that it uses. `packages`: name to (folder, names of its normal dependencies in the workspace).
    """
    for table in document.tables():
        header = table[0][1]
        if "crate" in header and "uses" in header:
            return _dependencies(document, packages, table)
    return [Problem(document.file, 1, 'no table with the columns "folder", "crate" and "uses"')]


def _dependencies(document, packages, table):
    found, seen = [], {}
    folder, crate, uses = (table[0][1].index(name) for name in ("folder", "crate", "uses"))
    by_folder = {place: name for name, (place, _) in packages.items()}
    for line, cells in table[1:]:
        names = re.sub(r"[`/]", "", cells[uses])
        name, place = cells[crate].strip("`"), cells[folder].strip("`").rstrip("/")
        if name not in packages:
            found.append(Problem(document.file, line, f"{name} is no package of the workspace"))
            continue
        seen[name] = line
        if place != packages[name][0]:
            found.append(Problem(document.file, line, f"{name} is in {packages[name][0]}/, not in {place}/"))
        stated = {by_folder.get(use, use) for use in re.split(r"[,\s]+", names) if use}
        real = set(packages[name][1])
        for use in sorted(stated - real):
            found.append(Problem(document.file, line, f"{name} does not use {use}"))
        for use in sorted(real - stated):
            found.append(Problem(document.file, line, f"{name} uses {use}, which the table does not say"))
    for name in sorted(set(packages) - set(seen)):
        found.append(Problem(document.file, table[0][0], f"{name} ({packages[name][0]}/) is not in the table"))
    return found
