"""The guest's files: an archive in the form that the kernel unpacks at start (cpio, "newc")."""

import os
import pathlib
import re
import stat
import subprocess

# Debian's merged /usr: what lies in /lib here must be found under both names there.
MERGED = ("bin", "sbin", "lib", "lib64")


class Archive:
    def __init__(self, file):
        self.file = file
        self.names = set()
        for name in MERGED:
            self.folder(f"/usr/{name}")
            self.symlink(f"/{name}", f"usr/{name}")

    def entry(self, name, mode, data=b""):
        name = str(name).lstrip("/")
        if name in self.names:
            return
        self.names.add(name)
        encoded = os.fsencode(name) + b"\0"
        numbers = [len(self.names), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        head = b"070701" + b"".join(b"%08x" % number for number in numbers) + encoded
        self.file.write(head + bytes(-len(head) % 4))
        self.file.write(data + bytes(-len(data) % 4))

    def folder(self, path, mode=0o755):
        path = pathlib.PurePath(path)
        if path.parent != path:
            self.folder(path.parent)
            self.entry(path, stat.S_IFDIR | mode)

    def write(self, path, content, mode=0o644):
        self.folder(pathlib.PurePath(path).parent)
        self.entry(path, stat.S_IFREG | mode, content)

    def symlink(self, path, target):
        self.folder(pathlib.PurePath(path).parent)
        self.entry(path, stat.S_IFLNK | 0o777, os.fsencode(target))

    def add(self, path, place=None):
        """A file, with the shared libraries it needs, or a folder, to the same or another place."""
        path = pathlib.Path(path)
        place = pathlib.PurePath(place) if place else pathlib.Path(os.path.abspath(path))
        # Only the last name may be a link there: a folder's is resolved.
        place = pathlib.Path(os.path.realpath(place.parent)) / place.name
        if str(place).lstrip("/") in self.names:
            return
        if path.is_symlink():
            # Links stay links, so that no library is loaded twice under two names.
            target = os.readlink(path)
            self.symlink(place, target)
            self.add(path.parent / target, place.parent / target)
        elif path.is_dir():
            self.folder(place)
            for leaf in sorted(path.iterdir()):
                self.add(leaf, place / leaf.name)
        else:
            content = path.read_bytes()
            self.write(place, content, stat.S_IMODE(path.stat().st_mode))
            if content.startswith(b"\x7fELF"):
                for library in needed(path):
                    self.add(library)

    def close(self):
        self.entry("TRAILER!!!", 0)


def needed(path):
    """The shared libraries, the loader among them, that a program or library is loaded with."""
    listing = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
    found = [name for name in re.findall(r"(/\S+) \(0x", listing)]
    libc = next((name for name in found if "/libc.so" in name), None)
    if libc:  # which loads it by itself when a thread is cancelled
        unwinder = pathlib.Path(libc).with_name("libgcc_s.so.1")
        found += [str(unwinder)] if unwinder.exists() else []
    return found
