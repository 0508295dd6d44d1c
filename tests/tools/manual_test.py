"""The manual pages: well-formed, installed, and of one mind with the program."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

BUILD = pathlib.Path(os.environ["PAGODA_BUILD"])
MANUAL = pathlib.Path(os.environ["PAGODA_SOURCE"]) / "docs" / "man"
PAGES = ("pagoda.1", "pagoda.hpp.3", "libpagoda.7")


def output(*command, **environment):
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    if done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def rendered(page):
    return re.sub(".\b", "", output("mandoc", "-Tascii", MANUAL / page))


def section(page, name):
    """The text below a heading, its words separated by single spaces."""
    body = rendered(page).split(f"\n{name}\n", 1)[1]
    return " ".join(re.split(r"\n(?=[A-Z])", body, maxsplit=1)[0].split())


class Manual(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_pages_are_well_formed(self):
        for page in PAGES:
            output("mandoc", "-Tlint", "-W", "warning", MANUAL / page)

    def test_options_are_those_of_the_table(self):
        def from_first(text):
            return text[text.index("on_error=") :]

        listed = " ".join(output(BUILD / "pagoda", "options").split())
        self.assertEqual(from_first(section("libpagoda.7", "OPTIONS")), from_first(listed))

    def test_statistics_are_those_of_the_exit_report(self):
        report = self.folder / "report"
        output(BUILD / "pagoda", "run", "-o", f"exit_report={report}", "--", "true")
        written = list(json.loads(report.read_text()))
        source = (MANUAL / "libpagoda.7").read_text()
        self.assertEqual(re.findall(r"^\.It Li (\w+)$", source, re.M), written)

    def test_commands_are_those_of_the_help(self):
        words = section("pagoda.1", "SYNOPSIS") + section("pagoda.1", "DESCRIPTION")
        for help_text in (output(BUILD / "pagoda", "--help"),
                          output(BUILD / "pagoda", "run", "--help")):
            for word in re.findall(r"^  (?:-\w,)?(-?-?\w+)", help_text, re.M):
                if word != "pagoda":
                    self.assertIn(word, words)

    def test_names_of_the_cxx_header_are_told(self):
        header = (MANUAL.parents[1] / "include" / "pagoda" / "pagoda.hpp").read_text()
        names = re.findall(r"^(?:template <.*> )?(?:class|struct|using) (\w+)", header, re.M)
        pool = header.split(" class cache {")[1].split("private:")[0]
        names += re.findall(r"[ *&](\w+)\([^()]*\)(?: const)? (?:noexcept[ (]|\{)", pool)
        for name in ("memory_resource", "unique_ptr", "shared", "try_construct", "native_handle"):
            self.assertIn(name, names)
        told = (MANUAL / "pagoda.hpp.3").read_text()
        for name in set(names) - {"guard", "operator"}:
            self.assertRegex(told, rf"\b{name}\b")

    def test_installed_beside_what_they_describe(self):
        output("cmake", "--install", BUILD, "--prefix", self.folder)
        for page in PAGES:
            installed = self.folder / "share" / "man" / f"man{page[-1]}" / page
            self.assertEqual(installed.read_text(), (MANUAL / page).read_text())
        library, = self.folder.glob("lib/**/libpagoda.so")
        maps = output(self.folder / "bin" / "pagoda", "run", "--", "cat", "/proc/self/maps")
        self.assertIn(str(library.resolve()), maps)


if __name__ == "__main__":
    unittest.main()
