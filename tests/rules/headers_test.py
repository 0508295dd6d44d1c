"""The public headers compile as C11 and C++20, alone, in any order, and beside other people's."""

import concurrent.futures
import itertools
import os
import pathlib
import random
import re
import shutil
import subprocess
import unittest

import tree

INCLUDE = tree.ROOT / "include"
HEADERS = sorted(f"pagoda/{path.name}" for path in (INCLUDE / "pagoda").glob("*.h"))
CXX_HEADERS = sorted(f"pagoda/{path.name}" for path in (INCLUDE / "pagoda").glob("*.hpp"))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
C, CXX = ["-x", "c", "-std=c11"], ["-x", "c++", "-std=c++20"]
COMPILERS = [["gcc", *C], ["g++", *CXX], ["clang", *C], ["clang++", *CXX]]
# Headers of the kernel's that can stand libc, C++ and each other, and headers of libc's that define
# much.
UAPI = """types const stddef kernel mman memfd mempolicy futex membarrier rseq userfaultfd fs
    if if_ether if_packet if_xdp in ip tcp netlink rtnetlink ethtool bpf filter perf_event io_uring
    aio_abi vfio pci pci_regs sched usbdevice_fs usb/ch9 nvme_ioctl blkzoned dma-buf dma-heap kvm
    limits hdreg input videodev2 seccomp audit capability elf errno fcntl ioctl ipc prctl random
    sockios spi/spidev i2c i2c-dev gpio serial tty soundcard swab udmabuf""".split()
LIBC = """stdlib.h string.h malloc.h stdio.h stdint.h limits.h unistd.h pthread.h signal.h errno.h
    sys/types.h sys/mman.h sys/uio.h sys/param.h sys/queue.h obstack.h search.h""".split()
DPDK = "rte_memory.h rte_malloc.h rte_mbuf.h rte_mempool.h rte_ethdev.h rte_eal.h rte_ring.h".split()
# Types that every second project defines; two definitions in one program are an error in C++.
COMMON_TYPEDEF = re.compile(r"typedef[^;{]*\b(?:[us](?:8|16|32|64)|uint|ulong|dma_addr|page)\s*;")


def text_of(names):
    return "".join(f"#include <{name}>\n" for name in names) + "int translation_unit_is_empty;\n"


def compile_all(units):
    """Compiles (compiler, options, source text) and returns what the compilers complained about."""

    def compile_one(unit):
        compiler, options, source = unit
        done = subprocess.run(
            [*compiler, *WARNINGS, *options, "-I", INCLUDE, "-fsyntax-only", "-"],
            input=source, capture_output=True, text=True, timeout=120,
        )
        if done.returncode == 0:
            return None
        return f"{' '.join(compiler)} {' '.join(options)}\n{source[:2000]}{done.stderr[:1500]}"

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [fault for fault in pool.map(compile_one, units) if fault]


def present(name):
    """Whether this system has the header: the kernel's come and go."""
    return not compile_all([(COMPILERS[0], [], f"#if !__has_include(<{name}>)\n#error\n#endif\n"
                                               "int translation_unit_is_empty;\n")])


def dpdk_options():
    """How DPDK wants to be included, as a system header; nothing where it is not installed."""
    if not shutil.which("pkg-config"):
        return None
    asked = subprocess.run(["pkg-config", "--cflags", "libdpdk"], capture_output=True, text=True)
    if asked.returncode != 0:
        return None
    options = asked.stdout.split()
    paths = [word[2:] for word in options if word.startswith("-I")] + ["/usr/include/dpdk"]
    rest = [word for word in options if not word.startswith("-I")]
    return rest + list(itertools.chain(*(["-isystem", path] for path in paths)))


class Headers(unittest.TestCase):
    def check(self, units):
        units = list(units)
        self.assertTrue(units)
        faults = compile_all(units)
        self.assertFalse(faults, f"\n{len(faults)} of {len(units)}\n" + "\n".join(faults[:5]))

    def headers(self, compiler):
        return HEADERS + (CXX_HEADERS if "++" in compiler[0] else [])

    def test_alone_and_twice(self):
        self.check(
            (compiler, [], text_of([name] * count))
            for compiler in COMPILERS
            for name in self.headers(compiler)
            for count in (1, 2)
        )

    def test_with_the_switches_that_change_libc(self):
        self.check(
            (compiler, options, text_of(HEADERS))
            for compiler in COMPILERS
            for options in (["-D_GNU_SOURCE"], ["-O2", "-D_FORTIFY_SOURCE=2"], ["-fno-builtin"],
                            ["-Wshadow", "-Wundef", "-Wconversion"])
        )

    def test_without_exceptions_and_rtti(self):
        self.check((compiler, ["-fno-exceptions", "-fno-rtti"], text_of(self.headers(compiler)))
                   for compiler in COMPILERS if "++" in compiler[0])

    def test_in_any_order(self):
        seed = random.randrange(1 << 30)
        print("seed", seed)
        choice = random.Random(seed)
        # The C++ headers bring half of libstdc++ with them: twice is enough.
        orders = [HEADERS + CXX_HEADERS, (HEADERS + CXX_HEADERS)[::-1]]
        orders += [choice.sample(HEADERS, len(HEADERS)) for _ in range(6)]
        self.check(
            (compiler, [], text_of(name for name in order if name in self.headers(compiler)))
            for compiler in COMPILERS
            for order in orders
        )

    def beside(self, theirs, options):
        self.check(
            (compiler, options, text_of(order))
            for compiler in COMPILERS
            for order in (self.headers(compiler) + theirs, theirs + HEADERS)
        )

    def test_beside_libc(self):
        self.beside(LIBC, ["-D_GNU_SOURCE"])

    def test_beside_the_kernels_headers(self):
        theirs = [f"linux/{name}.h" for name in UAPI]
        theirs = [name for name in theirs if (pathlib.Path("/usr/include") / name).exists()]
        self.assertGreater(len(theirs), len(UAPI) // 2)
        self.beside(theirs, ["-D_GNU_SOURCE"])

    def test_after_liburcu(self):
        """Both have a struct rcu_head, so here the order is given."""
        if not present("urcu-bp.h"):
            self.skipTest("liburcu is not installed: liburcu-dev")
        for options in ([], ["-D_LGPL_SOURCE"]):
            self.check((compiler, ["-D_GNU_SOURCE", *options], text_of(["urcu-bp.h"] + HEADERS))
                       for compiler in COMPILERS)

    def test_beside_dpdk(self):
        options = dpdk_options()
        if options is None:
            self.skipTest("DPDK is not installed: libdpdk-dev")
        self.beside(DPDK, ["-D_GNU_SOURCE", *options])

    def test_names_are_in_use(self):
        """What the macros of the headers expand to is as clean as the headers."""
        for uses in sorted((tree.ROOT / "tests" / "rules").glob("uses_*.c")):
            source = f'#include "{uses}"\n'
            self.check((compiler, options, source) for compiler in COMPILERS
                       for options in ([], ["-O2"]))

    def test_no_type_that_others_have(self):
        wrong = [f"{name}: {found[0]}" for name in HEADERS
                 for found in COMMON_TYPEDEF.finditer(tree.code(tree.text(f"include/{name}")))]
        self.assertFalse(wrong)

    def test_the_rule_sees_faults(self):
        for source in ["int f(void) { return nothing; }", "#include <pagoda/none.h>",
                       "#include <pagoda/slab.h>\ntypedef char gfp_t;"]:
            self.assertEqual(len(compile_all((compiler, [], source) for compiler in COMPILERS)), 4)
        self.assertTrue(COMMON_TYPEDEF.search("typedef unsigned char u8;"))


if __name__ == "__main__":
    unittest.main()
