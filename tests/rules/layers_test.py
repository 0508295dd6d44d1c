"""Includes point downwards only: preload, tools, examples -> dma -> lib -> hugepage -> sys."""

import re
import unittest

import tree

# sys is a layer inside hugepage/: sys and vdso, and base.h, which has no layer
# beneath it.
FOLDERS = {"preload", "tools", "examples", "dma", "lib", "hugepage"}
RANK = {"preload": 4, "tools": 4, "examples": 4, "dma": 3, "lib": 2, "hugepage": 1, "sys": 0}
# What dma/ is built against: the seam, and words without code behind them. The rest of the core is
# in another library, which exports none of it.
SEAM = {"hugepage/provider.h", "hugepage/base.h"}
INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.M)


def layer(path):
    parts = path.split("/")
    if parts[0] == "hugepage" and parts[-1].split(".")[0] in ("sys", "vdso", "base"):
        return "sys"
    return parts[0]


def faults(path, content):
    """What is wrong with the includes of one file."""
    mine = layer(path)
    for kind, target in INCLUDE.findall(content):
        if kind == "<":
            if target.split("/")[0] in FOLDERS:
                yield f"{path}: <{target}> is ours and wants quotation marks"
            continue
        theirs = layer(target)
        if theirs not in RANK:
            yield f'{path}: "{target}" is not written from the root of the tree'
        elif mine == "include":
            yield f'{path}: a public header cannot include "{target}"'
        elif mine == "examples" and theirs != mine:
            yield f'{path}: a sample knows the public headers alone, not "{target}"'
        elif mine == "dma" and theirs != mine and target not in SEAM:
            yield f'{path}: {mine} is another library than "{target}"'
        elif RANK[theirs] > RANK[mine] or (RANK[theirs] == RANK[mine] and theirs != mine):
            yield f'{path}: {mine} cannot include "{target}" of {theirs}'


class Layers(unittest.TestCase):
    def test_the_tree(self):
        wrong = []
        for path in tree.sources("include", "hugepage", "lib", "dma", "preload", "tools",
                                 "examples"):
            wrong += faults(str(path), tree.text(path))
        self.assertFalse(wrong, "\n" + "\n".join(wrong))

    def test_the_rule_sees_faults(self):
        for path, line in [
            ("hugepage/buddy.cc", '#include "lib/slab.h"'),
            ("hugepage/sys.cc", '#include "hugepage/zone.h"'),
            ("lib/slab.h", '#  include "preload/malloc.h"'),
            ("tools/run.cc", '#include "preload/malloc.h"'),
            ("lib/slab.cc", '#include "slab.h"'),
            ("lib/slab.cc", "#include <hugepage/zone.h>"),
            ("include/pagoda/slab.h", '#include "lib/slab.h"'),
            ("examples/scull.c", '#include "lib/slab.h"'),
            ("lib/slab.cc", '#include "dma/space.h"'),
            ("dma/space.cc", '#include "lib/slab.h"'),
            ("dma/space.cc", '#include "preload/malloc.h"'),
        ]:
            self.assertEqual(len(list(faults(path, line + "\n"))), 1, (path, line))

    def test_the_rule_allows_what_points_down(self):
        for path, line in [
            ("preload/malloc.cc", '#include "lib/slab.h"'),
            ("lib/slab.cc", '#include "hugepage/sys.h"'),
            ("hugepage/sys.h", '#include "hugepage/base.h"'),
            ("hugepage/zone.h", "#include <pagoda/gfp.h>"),
            ("include/pagoda/slab.h", "#include <pagoda/gfp.h>"),
            ("examples/scull.c", '#include "examples/scull.h"'),
            ("dma/space.cc", '#include "hugepage/provider.h"'),
            ("dma/space.cc", '#include "dma/iommu.h"'),
        ]:
            self.assertEqual(list(faults(path, line + "\n")), [])


if __name__ == "__main__":
    unittest.main()
