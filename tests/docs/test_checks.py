"""The checks see what is wrong."""

import tempfile
import unittest
from pathlib import Path

import commands
import documents
from documents import Document


def texts(problems):
    return [f"{problem.line}: {problem.text}" for problem in problems]


class Programs:
    """Stands for the programs of the workspace."""

    packages = {"tool-cli": {"folder": "cli", "programs": ["tool"], "examples": ["sample"]}}
    names = {"tool": "tool-cli"}

    def subcommands(self, program):
        return ["run", "check"]

    def flags(self, program, subcommand=None):
        return {"--help", "--out"} if subcommand == "run" else {"--help"}

    def all_flags(self):
        return {"--help", "--out"}


class Parsing(unittest.TestCase):
    def test_reads_marks_and_outputs_of_blocks(self):
        text = "<!-- needs: board, long -->\n```sh\na\n```\n\n  ```sh\n  b\n  c\n  ```\n\n```text\nshown\n...\n```\n<!-- stop: 5 -->\n\n```sh\nd\n```"
        a, b, d = Document("x.md", text).blocks
        self.assertEqual((a.needs, a.line, a.output), (["board", "long"], 2, None))
        self.assertEqual((b.text, b.output), ("b\nc", ["shown", "..."]))
        self.assertEqual((d.stop, d.needs), (5, []))

    def test_refuses_marks_without_a_block_and_blocks_without_an_end(self):
        self.assertEqual(len(Document("x.md", "<!-- needs: board -->\ntext\n").problems), 1)
        self.assertEqual(len(Document("x.md", "```sh\na\n").problems), 1)
        self.assertEqual(len(Document("x.md", "<!-- stop: soon -->\n```sh\na\n```\n").problems), 1)


class Sizes(unittest.TestCase):
    def test_counts_lines_and_characters_of_cells(self):
        self.assertEqual(documents.sizes(Document("R.md", "a\n" * 130)), [])
        self.assertEqual(texts(documents.sizes(Document("R.md", "a\n" * 131))), ["131: 131 lines, expected at most 130"])
        cell = "| short | " + "x" * 81 + " |"
        self.assertEqual(len(documents.sizes(Document("R.md", "| a | b |\n|---|---|\n" + cell))), 1)
        linked = "| " + "x" * 70 + " [here](" + "y" * 60 + ") |"
        self.assertEqual(documents.sizes(Document("R.md", linked)), [])


class Links(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        root = Path(self.folder.name)
        (root / "docs").mkdir()
        (root / "docs" / "b.md").write_text("# The board's `selftest`, twice\n## Again\n## Again\n")

    def problems(self, text):
        other = Document("docs/b.md", (Path(self.folder.name) / "docs" / "b.md").read_text())
        document = Document("a.md", text)
        return texts(documents.links(document, self.folder.name, {"a.md": document, "docs/b.md": other}))

    def test_finds_missing_files_and_headings(self):
        self.assertEqual(self.problems("[x](docs/b.md#the-boards-selftest-twice) [y](docs/b.md#again-1)"), [])
        self.assertEqual(self.problems("[x](https://example.org) `[x](gone.md)`"), [])
        self.assertEqual(self.problems("\n[x](docs/gone.md)"), ["2: link to docs/gone.md, which does not exist"])
        self.assertEqual(len(self.problems("![x](gone.svg) [y](docs/b.md#gone) [z](#gone)")), 3)

    def test_finds_paths_that_do_not_exist(self):
        document = Document("a.md", "see `docs/b.md`,\n`docs/{b,c}.md` and `docs/*.md`, `other/thing`, `docs/NAME.md` of `/docs/x`")
        found = documents.paths(document, self.folder.name, ["docs/b.md"])
        self.assertEqual(texts(found), ["2: `docs/c.md` does not exist"])


class Dependencies(unittest.TestCase):
    packages = {"tool": ("lib", ["tool-base"]), "tool-base": ("base", []), "tool-cli": ("cli", ["tool"])}
    head = "| folder | crate | job | uses |\n|---|---|---|---|\n"

    def problems(self, rows):
        return texts(documents.dependencies(Document("A.md", self.head + rows), self.packages))

    def test_wants_exact_equality(self):
        good = "| base/ | tool-base | | |\n| lib/ | tool | | base |\n"
        self.assertEqual(self.problems(good + "| cli/ | tool-cli | | lib |"), [])
        self.assertEqual(self.problems(good + "| cli/ | tool-cli | | lib, base |"), ["5: tool-cli does not use tool-base"])
        self.assertEqual(
            self.problems(good + "| cli/ | tool-cli | | |"), ["5: tool-cli uses tool, which the table does not say"]
        )
        self.assertEqual(self.problems(good), ["1: tool-cli (cli/) is not in the table"])
        self.assertEqual(
            self.problems(good + "| c/ | tool-cli | | lib |\n| d/ | tool-d | | |"),
            ["5: tool-cli is in cli/, not in c/", "6: tool-d is no package of the workspace"],
        )

    def test_wants_a_table(self):
        self.assertEqual(len(documents.dependencies(Document("A.md", "text"), self.packages)), 1)


class Flags(unittest.TestCase):
    def problems(self, text):
        return texts(commands.flags([Document("a.md", text)], Programs(), {"--workspace"}))

    def test_finds_flags_and_commands_that_do_not_exist(self):
        block = "```sh\n{}\n```"
        self.assertEqual(self.problems(block.format("sudo -u me tool run a --out b | grep --color x")), [])
        self.assertEqual(self.problems(block.format("cargo run --release -p tool-cli -- run --out b")), [])
        self.assertEqual(self.problems(block.format("make | tool check --out b")), ["1: tool check has no flag --out"])
        self.assertEqual(self.problems(block.format("target/release/tool go")), ["1: tool has no command go"])
        self.assertEqual(
            self.problems(block.format("cargo run -p tool-cli -- run \\\n  --in b")), ["1: tool run has no flag --in"]
        )
        self.assertEqual(self.problems(block.format("cargo run -p gone -- run")), ["1: no package gone"])
        self.assertEqual(self.problems(block.format("cargo run -p tool-cli --example gone")), ["1: no example gone"])

    def test_looks_into_prose(self):
        self.assertEqual(self.problems("`--out`, `--workspace`, `tool run BUNDLE --out`, `tool`"), [])
        self.assertEqual(self.problems("`--gone`"), ["1: no program has the flag --gone"])
        self.assertEqual(self.problems("\n`tool run\n--gone`"), ["2: tool run has no flag --gone"])


class Output(unittest.TestCase):
    def test_compares_lines_with_gaps(self):
        self.assertTrue(commands.same(["a", "..."], ["a", "b", "c"]))
        self.assertTrue(commands.same(["a", "...", "c"], ["a", "b", "c"]))
        self.assertTrue(commands.same(["a.png  (1.5 ms)"], ["a.png  (12.0 ms)"]))
        self.assertFalse(commands.same(["a"], ["a", "b"]))
        self.assertFalse(commands.same(["a", "...", "d"], ["a", "b", "c"]))
