"""What the libraries need, export and reserve, as any program that loads them will see it.

With --update the golden lists of exports are written anew instead.
"""

import pathlib
import re
import sys
import unittest

import tree

GOLDEN = {
    tree.LIBRARY: pathlib.Path(__file__).with_name("exports.golden"),
    tree.DMA_LIBRARY: pathlib.Path(__file__).with_name("exports_dma.golden"),
}
UPDATE = "after a wanted change: python3 tests/rules/elf_test.py --update"
# Names of the kernel's that programs define for themselves; a preloaded library would hijack them.
KERNEL_NAMES = re.compile(
    r"^_{0,2}(k|kv|devm_k)(m|z|c|re)alloc|^v(m|z)alloc|^k(v|z)?free|^vfree|^kmem_cache|^mempool_"
    r"|^dma_|^alloc_pages|^(__)?free_pages?|^get_free_page|^(kmap|vmap|ioremap|memblock)"
)


def exports(library):
    """Dynamic symbols that a library defines, with their versions."""
    names = set()
    for line in tree.output("readelf", "-W", "--dyn-syms", library).splitlines():
        fields = line.split()
        if len(fields) >= 8 and fields[0][:-1].isdigit() and fields[4] in ("GLOBAL", "WEAK"):
            if fields[6] not in ("UND", "ABS"):
                names.add(fields[7])
    return sorted(names)


class Library:
    """What holds for each library; a test case says which and how much of it."""

    def dynamic(self, tag):
        listing = tree.output("readelf", "-W", "-d", self.library)
        return re.findall(rf"\({tag}\)\s+(.*)", listing)

    def test_needs_no_more_than_it_may(self):
        needed = {re.search(r"\[(.*)\]", entry)[1] for entry in self.dynamic("NEEDED")}
        self.assertLessEqual({"libc.so.6"}, needed)
        self.assertLessEqual(needed, self.needed | {"libc.so.6", "ld-linux-x86-64.so.2"})

    def test_soname(self):
        self.assertIn(f"[{self.library.name}]", self.dynamic("SONAME")[0])

    def test_stays_loaded_and_bound(self):
        flags = " ".join(self.dynamic("FLAGS_1"))
        for flag in self.flags:
            self.assertIn(flag, flags)
        self.assertFalse(self.dynamic("TEXTREL"))

    def test_segments(self):
        listing = tree.output("readelf", "-W", "-l", self.library)
        self.assertRegex(listing, r"GNU_RELRO")
        self.assertNotRegex(listing, r"GNU_STACK.*RWE")
        self.assertNotRegex(listing, r"LOAD.*RWE")
        tls = re.search(r"^\s*TLS\s+(?:0x\w+\s+){4}0x(\w+)", listing, re.M)
        size = int(tls[1], 16) if tls else 0
        print(f"TLS: {size} bytes of {self.tls}")
        self.assertLessEqual(size, self.tls)

    def test_tls_is_initial_exec(self):
        relocations = tree.output("readelf", "-W", "-r", self.library)
        self.assertNotRegex(relocations, r"DTPMOD|TLSDESC|__tls_get_addr")

    def test_exports_equal_the_golden_list(self):
        golden = GOLDEN[self.library].read_text().split()
        added = sorted(set(exports(self.library)) - set(golden))
        gone = sorted(set(golden) - set(exports(self.library)))
        self.assertFalse(added + gone, f"\nnew: {added}\ngone: {gone}\n{UPDATE}")

    def test_exports_nothing_of_the_kernels(self):
        names = [name.split("@")[0] for name in exports(self.library)]
        self.assertFalse([name for name in names if KERNEL_NAMES.search(name)])


class Core(Library, unittest.TestCase):
    library = tree.LIBRARY
    needed = set()
    flags = ["NODELETE", "INITFIRST", "NOW"]
    tls = 64

    def test_what_few_programs_need_lies_apart(self):
        # The kernel maps 64 KiB around a fault: constants in the tables' segment, or a function at
        # the end of all code that is called at exit, would bring them into every process.
        listing = tree.output("readelf", "-W", "-l", self.library)
        segments = [line.split()[1:] for line in listing.splitlines()
                    if re.match(r"\s+\d\d .*\.eh_frame\b", line)]
        for sections in segments:
            self.assertLessEqual(
                set(sections), {".eh_frame", ".eh_frame_hdr", ".gcc_except_table"})
        self.assertTrue(segments)
        self.assertFalse(self.dynamic("FINI"))

    def test_nothing_is_initialised_at_start(self):
        self.assertNotIn("_GLOBAL__sub_I_", tree.output("nm", self.library))

    def test_the_rule_knows_the_kernels_names(self):
        for name in "kmalloc __kmalloc kvfree kfree vzalloc vfree kmem_cache_alloc krealloc".split():
            self.assertRegex(name, KERNEL_NAMES)
        for name in "malloc valloc free cfree realloc pagoda_kmalloc pvalloc _Znwm".split():
            self.assertNotRegex(name, KERNEL_NAMES)


class Dma(Library, unittest.TestCase):
    library = tree.DMA_LIBRARY
    needed = {"libpagoda.so"}
    flags = ["NODELETE", "NOW"]
    tls = 512  # the sentence of pagoda_device_error()

    def test_exports_its_own_names_alone(self):
        names = exports(self.library)
        self.assertFalse([name for name in names if not name.startswith("pagoda_")])
        self.assertFalse(set(names) & set(exports(tree.LIBRARY)))


if __name__ == "__main__":
    if sys.argv[1:] == ["--update"]:
        for library, golden in GOLDEN.items():
            golden.write_text("\n".join(exports(library)) + "\n")
    else:
        unittest.main()
