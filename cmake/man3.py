#!/usr/bin/env python3
"""Manual pages of section 3, from the comments of the public headers.

man3.py --output FOLDER --version VERSION --date DATE HEADER…

A comment speaks for the declarations below it, up to the next comment or blank line. What a blank
line sets apart is one page, named after its first function; NAME of the kernel's joins the page of
pagoda_NAME. A comment with nothing but a blank line below it is a heading, "Topic: what it is", and
the one-line description of the pages under it; without one, the header's first sentence is. The
rest of the header, its constants and types, is the page pagoda_HEADER.h.
"""

import argparse
import dataclasses
import pathlib
import re
import sys
import textwrap

FUNCTION, CONSTANT, TYPE = "function", "constant", "type"


@dataclasses.dataclass
class Declaration:
    kind: str
    name: str
    synopsis: str
    body: str = ""
    note: str = ""  # the comment on the line of a constant


@dataclasses.dataclass
class Entry:
    """One comment and the declarations that it speaks for."""

    comment: str
    declarations: list


@dataclasses.dataclass
class Paragraph:
    heading: str
    entries: list = dataclasses.field(default_factory=list)

    def declarations(self, kind):
        return [d for entry in self.entries for d in entry.declarations if d.kind == kind]


def plain(comment):
    """The text of a comment, line by line."""
    lines = comment[2:-2].split("\n")
    return "\n".join(re.sub(r"^\s*\*?\s?", "", line, count=1) if number else line.strip()
                     for number, line in enumerate(lines)).strip()


def without_comments(code):
    return re.sub(r"/\*.*?\*/", "", code, flags=re.S)


def balanced(text, start):
    """The index behind the bracket that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] in "([{") - (text[index] in ")]}")
        if depth == 0:
            return index + 1
    raise SystemExit(f"an open bracket: {text[start:start + 80]!r}")


def prototype(code):
    """A declaration without what only the compiler wants to know, on one line."""
    attribute = re.compile(r"__attribute__\s*\(|\bPAGODA_[A-Z_]+\s*\(?")
    while found := attribute.search(code):
        end = balanced(code, found.end() - 1) if found[0].endswith("(") else found.end()
        code = code[: found.start()] + code[end:]
    code = re.sub(r"\b(static|inline|extern|__extension__|__inline__)\b", " ", code)
    return re.sub(r"\s+", " ", code).strip().replace(" ;", ";").replace("__builtin_va_list",
                                                                       "va_list")


def directive(text):
    """The length of the preprocessor directive that text begins with, comments and all."""
    return re.match(r"#(?:/\*.*?\*/|\\\n|[^\n])*", text, re.S).end()


def declaration(text):
    """Length and Declaration (or None) of the declaration that text begins with."""
    index = 0
    while text[index] not in ";{":
        if text.startswith("/*", index):
            index = text.index("*/", index) + 2
        else:
            index = balanced(text, index) if text[index] in "([" else index + 1
    body = ""
    head = without_comments(text[:index])
    end = index + 1
    if text[index] == "{":
        end = balanced(text, index)
        body = text[index:end]
        if re.match(r"\s*(typedef\s+)?(struct|union|enum)\b[^(]*$", head):
            end = text.index(";", end) + 1
            name = re.search(r"(\w+)\s*$", head) if not re.match(r"\s*typedef", head) else (
                re.search(r"(\w+)\s*;$", text[:end]))
            return end, Declaration(TYPE, name[1] if name else "", textwrap.dedent(text[:end]))
    clean = prototype(head)
    if clean.startswith("typedef"):
        name = re.search(r"\(\*?(\w+)\)|(\w+)\s*(?:\(.*|\[.*)?$", clean)
        return end, Declaration(TYPE, name[1] or name[2], clean + ";")
    found = re.match(r"[^(]*?(\w+)\s*\(", clean)
    if not found or found[1] == "void":
        return end, None  # a struct's name alone, or a name that a macro makes
    return end, Declaration(FUNCTION, found[1], clean + ";", without_comments(body))


def macro(text):
    """The Declaration of a #define, or None for what is not for users."""
    notes = re.findall(r"/\*.*?\*/", text, re.S)
    found = re.match(r"#\s*define\s+(\w+)(\([^)]*\))?\s*(.*)", without_comments(text), re.S)
    if not found or found[1].endswith(("_H", "_HPP")):
        return None
    name, arguments, body = found[1], found[2], found[3].strip()
    note = " ".join(plain(comment) for comment in notes)
    if arguments is None:
        return Declaration(CONSTANT, name, name, body, note)
    if name.startswith("PAGODA_"):
        return None
    return Declaration(FUNCTION, name, f"{name}{arguments};", body, note)


class Header:
    """A header as paragraphs of entries, seen as a C compiler sees it."""

    def __init__(self, path):
        self.name = path.name
        self.top = ""
        self.paragraphs = []
        self.parse(path.read_text(encoding="utf-8"))
        self.resolve_aliases()

    def parse(self, text):
        heading, comment, paragraph, entry, seen = "", "", None, None, set()
        conditions = []
        while text:
            if space := re.match(r"\s+", text):
                if space[0].count("\n") > 1:
                    if comment and not self.top:
                        self.top = comment
                    elif comment:
                        heading = comment
                    comment, paragraph, entry = "", None, None
                text = text[space.end():]
                continue
            if text.startswith("/*"):
                end = text.index("*/") + 2
                if self.top or not comment:
                    comment = plain(text[:end])
                text = text[end:]
                continue
            found, hidden = None, "cxx" in conditions
            if text[0] == "#":
                end = directive(text)
                line = text[:end]
                if comment and not self.top:
                    self.top, comment = comment, ""
                if begin := re.match(r"#\s*if(n?def)?\b\s*(.*)", line):
                    conditions.append("cxx" if begin[1] == "def" and begin[2] == "__cplusplus"
                                      else "c" if begin[2] == "__cplusplus" else "other")
                elif re.match(r"#\s*el", line):
                    conditions[-1] = {"cxx": "c", "c": "cxx"}.get(conditions[-1], "other")
                elif re.match(r"#\s*endif", line):
                    conditions.pop()
                elif other := re.match(r"#\s*undef\s+(\w+)", line):
                    seen.add(other[1])  # what follows is another header's, extended
                elif not hidden:
                    found = macro(line)
            elif opened := re.match(r'extern\s+"C"\s*\{', text):
                end = opened.end()
            elif text[0] == "}":
                end = 1
            elif hidden:
                end, _ = declaration(text)
            else:
                end, found = declaration(text)
            text = text[end:]
            if not found or found.name in seen:
                continue
            seen.add(found.name)
            if not paragraph:
                paragraph = Paragraph(heading)
                self.paragraphs.append(paragraph)
            if comment or not entry:
                entry = Entry(comment, [])
                paragraph.entries.append(entry)
                comment = ""
            entry.declarations.append(found)

    def resolve_aliases(self):
        """#define kasprintf pagoda_kasprintf is a function too."""
        functions = {d.name: d for p in self.paragraphs for d in p.declarations(FUNCTION)}
        for paragraph in self.paragraphs:
            for d in paragraph.declarations(CONSTANT):
                if d.body in functions:
                    d.kind = FUNCTION
                    d.synopsis = re.sub(rf"\b{d.body}\b", d.name, functions[d.body].synopsis)


@dataclasses.dataclass
class Page:
    name: str
    paragraphs: list
    speaks_for: dict  # id of an entry -> the functions that it describes


def callees(function, known):
    return [name for name in re.findall(r"\w+", function.body)
            if name in known and name != function.name]


def pages_of(header):
    """The pages of a header's functions, and the functions that no comment speaks for."""
    home, documented, order = {}, {}, []
    for paragraph in header.paragraphs:
        for entry in paragraph.entries:
            for d in entry.declarations:
                if d.kind == FUNCTION:
                    home[d.name] = paragraph
                    order.append((d, entry))
    joins = {}
    for d, entry in order:
        own = home[d.name]
        others = [home[name] for name in callees(d, home) if home[name] is not own]
        if f"pagoda_{d.name}" in home:
            others.insert(0, home[f"pagoda_{d.name}"])
        if f"pagoda_{d.name}" in home or not entry.comment:
            for other in others:
                if other is not own:
                    joins.setdefault(id(own), other)

    def root(paragraph):
        while id(paragraph) in joins:
            paragraph = joins[id(paragraph)]
        return paragraph

    # Who is described where: by the comment it stands under, unless it is the kernel's name of
    # another and not the first there, or that comment is a prototype's.
    lacking = []
    entries = {d.name: entry for d, entry in order}
    for d, entry in order:
        first = entry.declarations[0]
        same = [f"pagoda_{d.name}"] if f"pagoda_{d.name}" in entries else []
        called = same + callees(d, entries)
        under_prototype = first.kind == FUNCTION and first is not d and not first.body
        elsewhere = not entry.comment or under_prototype or (same and first is not d)
        if elsewhere and d.body and called:
            entry = documented.get(called[0], entries[called[0]])
        documented[d.name] = entry
        if not entry.comment and not d.note:
            lacking.append(d.name)

    pages = {}
    for paragraph in header.paragraphs:
        if paragraph.declarations(FUNCTION):
            pages.setdefault(id(root(paragraph)), Page("", [], {})).paragraphs.append(paragraph)
    for page in pages.values():
        functions = [d for p in page.paragraphs for d in p.declarations(FUNCTION)]
        names = [d.name for d in functions]
        same = [name[len("pagoda_"):] for name in names if name.startswith("pagoda_")]
        kernels = [name for name in names if not name.startswith(("pagoda_", "__"))]
        page.name = ([name for name in same if name in names] + kernels + names)[0]
        for d in functions:
            page.speaks_for.setdefault(id(documented[d.name]), []).append(d)
    return list(pages.values()), lacking, {id(entry): entry for _, entry in order}


def escaped(text):
    text = text.replace("\\", r"\e").replace("…", "...").replace("–", r"\(en")
    text = text.replace("-", r"\-").replace("'", r"\(aq").replace("^", r"\(ha")
    text = text.replace("~", r"\(ti").replace("`", r"\(ga")
    text = "".join(c if ord(c) < 128 else f"\\[u{ord(c):04X}]" for c in text)
    return re.sub(r"^\.", r"\\&.", text, flags=re.M)


def prose(text):
    """Text of a comment: `arguments` italic, functions() and CONSTANTS bold."""
    token = re.compile(r"`([^`]+)`|\b([a-z_]\w*\(\))|(?<![\w-])(-?[A-Z_][A-Z0-9_]{2,})\b")
    written, last = [], 0
    for found in token.finditer(text):
        written.append(escaped(text[last:found.start()]))
        font = "I" if found[1] else "B"
        written.append(f"\\f{font}{escaped(found[1] or found[2] or found[3])}\\fR")
        last = found.end()
    written.append(escaped(text[last:]))
    return re.sub(r"^([.'])", r"\\&\1", "".join(written), flags=re.M)


def paragraphs(text):
    """A comment as roff: paragraphs, and indented lines as they are, or as a list."""
    lines, fresh = [], True
    for block in re.split(r"(?m)^\s*$\n?", text):
        if not block.strip():
            continue
        if not fresh:
            lines.append(".PP")
        fresh = False
        indented = False
        for line in block.rstrip().split("\n"):
            tagged = re.match(r" {1,}(\S+)  +(.*)", line)
            if tagged:
                lines += [".RS 4" if not indented else ".br",
                          f"\\fB{escaped(tagged[1])}\\fR: {prose(tagged[2])}"]
            elif line.startswith("  "):
                lines += [".RS 4" if not indented else ".br", prose(line.strip())]
            else:
                lines += [".RE"] if indented else []
                lines.append(prose(line))
            indented = bool(tagged) or line.startswith("  ")
        if indented:
            lines.append(".RE")
    return "\n".join(lines)


def code(text):
    return "\n".join([".nf", re.sub(r"(?m)^([.'])", r"\\&\1", escaped(text)), ".fi"])


def wrapped(synopsis):
    """A prototype, broken behind its commas where a terminal needs it."""
    lines = [""]
    for part in re.split(r"(?<=,) ", synopsis):
        if len(lines[-1]) + len(part) > 76:
            lines.append("   ")
        lines[-1] += f" {part}" if lines[-1] else part
    return "\n".join(lines)


def sentence(text):
    """The first sentence, without its topic and its full stop."""
    first = re.split(r"(?<=[.])(?:\s|$)", re.sub(r"\s+", " ", text), maxsplit=1)[0]
    return re.sub(r"^[^:]{1,40}: ", "", first).rstrip(".")


class Writer:
    def __init__(self, options):
        self.options = options

    def head(self, name, names, description):
        listed = ", ".join(escaped(n) for n in names)
        return [f'.TH {escaped(name)} 3 {self.options.date} "pagoda {self.options.version}" '
                '"Library Functions"', ".SH NAME", f"{listed} \\- {prose(description)}"]

    def synopsis(self, header, groups):
        lines = [".SH SYNOPSIS", ".nf", rf"\fB#include <pagoda/{escaped(header.name)}>\fR"]
        for group in groups:
            if group:
                lines.append(".PP")
            lines += [rf"\fB{line}\fR" for d in group
                      for line in escaped(wrapped(d.synopsis)).split("\n")]
        return lines + [".fi"]

    def entry(self, entry, names):
        """One comment under the names that it describes; types are shown as they are written."""
        lines = []
        if names:
            lines += [".TP", ", ".join(rf"\fB{escaped(name)}\fR" for name in names)]
        if entry.comment:
            lines += ([".PP"] if not names else []) + [paragraphs(entry.comment)]
        for d in entry.declarations:
            if d.kind == CONSTANT and d.note:
                lines += [".TP", rf"\fB{escaped(d.name)}\fR", paragraphs(d.note)]
            if d.kind == TYPE:
                lines += [".sp", ".RS 4", code(d.synopsis), ".RE"]
        return lines

    def function_page(self, header, page, entries):
        functions = [d for p in page.paragraphs for d in p.declarations(FUNCTION)]
        ours = [d for d in functions if d.name.startswith("pagoda_")]
        kernels = [d for d in functions if d not in ours]
        kernels.sort(key=lambda d: d.name != page.name)
        heading = next((p.heading for p in page.paragraphs if p.heading), header.top)
        names = [page.name] + [d.name for d in kernels + ours if d.name != page.name]
        lines = self.head(page.name, names, sentence(heading))
        lines += self.synopsis(header, [kernels, ours])
        lines.append(".SH DESCRIPTION")
        shown = set()
        for paragraph in page.paragraphs:
            for entry in paragraph.entries:
                described = page.speaks_for.get(id(entry), [])
                preferred = [d.name for d in described if not d.name.startswith("pagoda_")]
                constants = [d.name for d in entry.declarations
                             if d.kind == CONSTANT and not d.note]
                lines += self.entry(entry, (preferred or [d.name for d in described]) + constants)
                shown.add(id(entry))
        for key, described in page.speaks_for.items():
            if key not in shown:  # told on another page
                lines += self.entry(Entry(entries[key].comment, []), [d.name for d in described])
        lines += self.types(header, page, functions)
        return names, lines + self.see_also(header, page.name)

    def types(self, header, page, functions):
        """The structures that the page's functions take, where another paragraph defines them."""
        synopses = " ".join(d.synopsis for d in functions)
        lines = []
        for paragraph in header.paragraphs:
            if paragraph in page.paragraphs:
                continue
            for d in paragraph.declarations(TYPE):
                if "{" in d.synopsis and re.search(rf"\b{d.name}\b", synopses):
                    lines += [".sp", ".RS 4", code(d.synopsis), ".RE"]
        return ([".SH STRUCTURES"] + lines[1:]) if lines else []

    def see_also(self, header, name):
        overview = overview_name(header)
        pages = [] if overview == name else [(overview, 3)]
        pages += [("libpagoda", 7)]
        return [".SH SEE ALSO", ",\n".join(rf"\fB{escaped(page)}\fR(\fI{section}\fR)"
                                           for page, section in pages)]

    def overview_page(self, header, pages):
        name = overview_name(header)
        lines = self.head(name, [name], sentence(header.top))
        lines += self.synopsis(header, [])
        lines += [".SH DESCRIPTION", paragraphs(header.top)]
        told = set()
        for paragraph in header.paragraphs:
            if paragraph.declarations(FUNCTION):
                continue
            if paragraph.heading not in told:
                told.add(paragraph.heading)
                lines += [".PP", paragraphs(paragraph.heading)] if paragraph.heading else []
            for entry in paragraph.entries:
                constants = [d.name for d in entry.declarations
                             if d.kind == CONSTANT and not d.note]
                lines += self.entry(entry, constants)
        if pages:
            lines.append(".SH FUNCTIONS")
            for page in pages:
                functions = [d.name for p in page.paragraphs for d in p.declarations(FUNCTION)
                             if not d.name.startswith("pagoda_")] or [page.name]
                lines += [".TP", rf"\fB{escaped(page.name)}\fR(3)",
                          ", ".join(escaped(function) for function in functions)]
        return lines + self.see_also(header, name)

    def write(self, name, lines):
        text = "\n".join(lines)
        text = re.sub(r"(?m)^\.PP\n(?=\.(?:SH|TP|PP|RS))", "", text)
        text = re.sub(r"(\.SH DESCRIPTION\n)(?:\.PP|\.sp)\n", r"\1", text)
        self.write_file(name, text)

    def write_file(self, name, text):
        page = self.options.output / f"{name}.3"
        if page.exists():
            sys.exit(f"two pages of the name {page.name}")
        page.write_text(text + "\n", encoding="ascii")


def overview_name(header):
    return "pagoda_" + header.name


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--version", required=True)
    parser.add_argument("--date", required=True)
    parser.add_argument("--strict", action="store_true", help="fail where a comment lacks")
    parser.add_argument("headers", type=pathlib.Path, nargs="+")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    for old in options.output.glob("*.3"):
        old.unlink()
    writer, lacking, taken = Writer(options), [], {}
    for path in options.headers:
        header = Header(path)
        pages, silent, entries = pages_of(header)
        lacking += [f"{header.name}: no comment speaks for {name}" for name in silent]
        writer.write(overview_name(header), writer.overview_page(header, pages))
        for page in pages:
            names, lines = writer.function_page(header, page, entries)
            writer.write(page.name, lines)
            taken.update({name: page.name for name in names if name != page.name})
    for name, page in taken.items():
        writer.write_file(name, f".so man3/{page}.3")
    print(*lacking, sep="\n", end="\n" * bool(lacking), file=sys.stderr)
    sys.exit(1 if lacking and options.strict else 0)


if __name__ == "__main__":
    main()
