#!/usr/bin/env python3
"""git on Pagoda: a history made on the spot, packed by two threads, checked, cloned and read."""

import hashlib

import program

COMMITS = 1_500
FILES = 60


def content(file, version):
    lines = [f"file {file} line {n} version {version if n % 17 == version % 17 else n}\n"
             for n in range(20 + file * 3)]
    return "".join(lines).encode()


def history():
    """A stream for `git fast-import`; commit number i writes file i mod FILES."""
    stream = []
    for i in range(COMMITS):
        data = content(i % FILES, i)
        stream.append(b"commit refs/heads/main\ncommitter T <t@example.org> %d +0000\n"
                      b"data 10\nchange%04d\nM 100644 inline dir%d/file%d\ndata %d\n%s\n"
                      % (1_600_000_000 + i, i, i % 7, i % FILES, len(data), data))
    return b"".join(stream)


class Git(program.ProgramTest):
    needs = ("git",)

    def git(self, where, *words, on_pagoda=True, **more):
        env = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_DATE": "1700000000 +0000",
               "GIT_COMMITTER_DATE": "1700000000 +0000"}
        settings = {"user.name": "T", "user.email": "t@example.org", "pack.threads": "2",
                    "index.threads": "2", "gc.autoDetach": "false"}
        options = [word for item in settings.items() for word in ("-c", "=".join(item))]
        return self.run_program("git", "-C", self.dir / where, *options, *words, env=env,
                                on_pagoda=on_pagoda, **more)

    def make(self, where, on_pagoda):
        (self.dir / where).mkdir()

        def git(*words, **more):
            return self.git(where, *words, on_pagoda=on_pagoda, **more)

        git("init", "-q", "-b", "main", ".")
        git("fast-import", "--quiet", input=history())
        git("reset", "-q", "--hard")
        for i in range(10):
            (self.dir / where / f"new{i}").write_bytes(content(i, i + 1))
            git("add", "-A")
            git("commit", "-q", "-m", f"new {i}")
        git("gc", "-q", "--aggressive", "--prune=now")
        return git

    def test_history(self):
        expected = self.make("glibc", on_pagoda=False)
        git = self.make("pagoda", on_pagoda=True)
        git("fsck", "--full", "--strict")
        self.assertEqual(git("rev-list", "--count", "HEAD").text, f"{COMMITS + 10}\n")
        for words in (["rev-parse", "HEAD"], ["log", "--stat", "-p"], ["shortlog", "-sn"],
                      ["ls-tree", "-r", "HEAD"], ["blame", "dir0/file0"],
                      ["cat-file", "--batch-check", "--batch-all-objects"],
                      ["grep", "-c", "version 1[0-9]*0$"]):
            self.assertEqual(git(*words).stdout, expected(*words).stdout, words)

        last = COMMITS - FILES + 42
        data = content(42, last)
        blob = hashlib.sha1(b"blob %d\0%s" % (len(data), data)).hexdigest()
        self.assertEqual(git("rev-parse", "HEAD:dir%d/file42" % (last % 7)).text.strip(), blob)

        self.git(".", "clone", "-q", "--no-local", "pagoda", "clone")
        self.assertEqual((self.dir / f"clone/dir{last % 7}/file42").read_bytes(), data)
        self.git("clone", "fsck", "--full")
        # fast-import, each commit, gc and its pack-objects, fsck…: at least one process each.
        self.assertGreater(len(self.reports("git")), 30)
        self.assert_served(50_000, program="git")


if __name__ == "__main__":
    program.main()
