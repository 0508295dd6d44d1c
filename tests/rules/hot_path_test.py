"""The hit path of malloc and free, and of kmalloc and its like, read from the machine code of the library that users run.

It is the straight line from the symbol to its first `ret`. Conditional jumps may leave it for the
slow path; what is left must keep within a budget of instructions.
"""

import collections
import re
import unittest

import tree

MALLOC_BUDGET = 23
FREE_BUDGET = 24


def straight_line(name):
    """The instructions from the symbol's address on, as (mnemonic, operands), to the first ret."""
    symbols = tree.output("readelf", "-W", "--dyn-syms", tree.LIBRARY)
    found = re.search(rf"^\s*\d+:\s+(\w+)\s+(\w+)\s+FUNC\s.*\s{name}(?:@\S+)?$", symbols, re.M)
    start, size = int(found[1], 16), int(found[2], 0)
    listing = tree.output(
        "objdump", "-d", "--no-show-raw-insn", f"--start-address={start:#x}",
        f"--stop-address={start + size:#x}", tree.LIBRARY,
    )
    return line_of(listing)


def line_of(listing):
    line = []
    for text in listing.splitlines():
        instruction = re.match(r"^\s*[0-9a-f]+:\s+(.*)$", text)
        if not instruction:
            continue
        words = instruction[1].split("#")[0].split("<")[0].split(None, 1)
        line.append((words[0], words[1].strip() if len(words) > 1 else ""))
        if words[0].startswith("ret"):
            return line
    return line


def faults(line, budget, prefetch):
    """What keeps a line from being a hit path within its budget."""
    if not line or not line[-1][0].startswith("ret"):
        yield "no ret in the whole function"
    if len(line) > budget:
        yield f"{len(line)} instructions, more than {budget}"
    if prefetch and not any(mnemonic.startswith("prefetch") for mnemonic, _ in line):
        yield "no prefetch of the next object"
    for mnemonic, operands in line:
        words = f"{mnemonic} {operands}"
        if mnemonic == "lock" or (mnemonic.startswith("xchg") and "(" in operands):
            yield f"a locked instruction: {words}"
        if re.match(r"(push|pop|enter|leave)", mnemonic) or re.search(r",%[re]sp$", operands):
            yield f"a stack frame: {words}"
        if mnemonic.startswith(("jmp", "call", "syscall")):
            yield f"the line is left: {words}"


class HotPath(unittest.TestCase):
    def check(self, name, budget, prefetch):
        line = straight_line(name)
        counts = collections.Counter(mnemonic for mnemonic, _ in line)
        histogram = ", ".join(f"{count} {mnemonic}" for mnemonic, count in counts.most_common())
        print(f"{name}: {len(line)} of {budget} instructions: {histogram}")
        wrong = list(faults(line, budget, prefetch))
        shown = "\n".join(f"    {mnemonic} {operands}" for mnemonic, operands in line)
        self.assertFalse(wrong, f"{name}: {wrong}\n{shown}")

    def test_malloc(self):
        self.check("malloc", MALLOC_BUDGET, prefetch=True)

    def test_free(self):
        self.check("free", FREE_BUDGET, prefetch=False)

    def test_kernel_names_cost_no_more(self):
        # What kmalloc(64, GFP_KERNEL) with constant arguments calls.
        self.check("pagoda_kmalloc_plain", MALLOC_BUDGET, prefetch=True)
        self.check("pagoda_kmem_cache_alloc", MALLOC_BUDGET, prefetch=True)
        self.check("pagoda_kfree", FREE_BUDGET, prefetch=False)

    def test_the_rule_sees_faults(self):
        good = "  10:\tmov    (%rdi),%rax\n  13:\tje     20 <slow>\n  15:\tret\n  16:\tnop\n"
        self.assertEqual(len(line_of(good)), 3)
        self.assertFalse(list(faults(line_of(good), 3, prefetch=False)))
        self.assertTrue(list(faults(line_of(good), 2, prefetch=False)))
        self.assertTrue(list(faults(line_of(good), 3, prefetch=True)))
        for bad in [
            "lock cmpxchg %rdx,(%rdi)",
            "xchg   %rax,(%rdi)",
            "push   %rbx",
            "sub    $0x18,%rsp",
            "call   1040 <memset@plt>",
            "jmp    30 <slow>",
        ]:
            line = line_of(f"  10:\t{bad}\n  15:\tret\n")
            self.assertEqual(len(list(faults(line, 9, prefetch=False))), 1, bad)


if __name__ == "__main__":
    unittest.main()
