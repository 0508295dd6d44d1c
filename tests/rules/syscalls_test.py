"""Only hugepage/sys.cc asks the kernel for memory or makes a raw system call; dma/ is a library of
its own and maps device memory in dma/os.cc."""

import re
import unittest

import tree

CALLS = (
    "mmap mmap64 munmap mremap mprotect madvise process_madvise posix_madvise mlock mlock2 munlock "
    "mlockall munlockall mincore mbind set_mempolicy get_mempolicy memfd_create brk sbrk "
    "pkey_mprotect remap_file_pages shmat shm_open prctl syscall"
).split()
CALL = re.compile(r"(?<![\w.>:])(?:::\s*)?(" + "|".join(CALLS) + r")\s*\(")
RAW = re.compile(r"\basm\b[^;]*\"[^\"]*\b(?:syscall|svc\s|int\s+\$0x80)", re.S)


def faults(path, content):
    code = tree.code(content)
    for number, line in enumerate(code.splitlines(), 1):
        for call in CALL.findall(line):
            yield f"{path}:{number}: {call}() belongs into hugepage/sys.cc"
    if RAW.search(content):
        yield f"{path}: a raw system call belongs into hugepage/sys.cc"


class Syscalls(unittest.TestCase):
    def test_the_tree(self):
        wrong = []
        for path in tree.sources("include", "hugepage", "lib", "dma", "preload", "tools"):
            if str(path) not in ("hugepage/sys.h", "hugepage/sys.cc", "dma/os.cc"):
                wrong += faults(str(path), tree.text(path))
        self.assertFalse(wrong, "\n" + "\n".join(wrong))

    def test_sys_is_where_they_are(self):
        self.assertTrue(list(faults("hugepage/sys.cc", tree.text("hugepage/sys.cc"))))

    def test_the_rule_sees_faults(self):
        for line in [
            "void *p = mmap(nullptr, n, 0, 0, -1, 0);",
            "if (::madvise (p, n, 4) != 0) {}",
            "return syscall(SYS_madvise, p, n, 4);",
            'asm volatile("syscall" : "=a"(r) : "a"(n));',
        ]:
            self.assertEqual(len(list(faults("lib/slab.cc", line))), 1, line)

    def test_the_rule_allows_talk_and_sys(self):
        for line in [
            "// as mmap() would",
            'warn("mmap() failed");',
            "sys::mmap(n);",
            "zone.madvise(p);",
            "sys::mremap_to(a, b);",
        ]:
            self.assertEqual(list(faults("lib/slab.cc", line)), [])


if __name__ == "__main__":
    unittest.main()
