"""The tree speaks of the project alone, and of what is there."""

import re
import unittest

import tree

# Each pattern is spelled so that it does not match itself.
FORBIDDEN = [
    (r"\bTOD[O]\b|\bFIXM[E]\b|\bXX[X]\b|\bHAC[K]\b", "a note to oneself"),
    (r"\b[Ff]or no[w]\b|\bnot (?:yet )?implemente[d]\b", "something unfinished"),
    (r"\b[Ss]tub(?:be[d])?\b|\bsimplif(?:y|ied) versio[n]\b|\bdummy implementatio[n]\b",
     "something unfinished"),
    (r"/wor[k]/|/roo[t]/|/home/[a-z]|/tmp/(?:brie[f]|peer[s])\b", "a path of one machine"),
    (r"\b(?:this|previous|next|last|another|working) sessio[n]\b|\bissue #?\d|\bclosing not[e]\b",
     "how the work was organised"),
    (r"\b(?:chatbo[t]|language mode[l]|A[I] agent|sub-?agen[t])\b", "how the work was organised"),
    (r"deb\.debia[n]\.org|\bnpmj[s]\b|\bpyp[i]\b", "a package registry"),
    (r"^(?:<{7}|>{7}|={7})(?:\s|$)", "a conflict left by a merge"),
]


def faults(path, content):
    for number, line in enumerate(content.splitlines(), 1):
        for pattern, what in FORBIDDEN:
            found = re.search(pattern, line)
            if found:
                yield f"{path}:{number}: {what}: '{found[0]}'"


class Texts(unittest.TestCase):
    def test_the_tree(self):
        wrong = []
        for path in tree.files():
            wrong += faults(path, tree.text(path))
        self.assertFalse(wrong, "\n" + "\n".join(wrong))

    def test_the_rule_sees_faults(self):
        for line in [
            "// TOD" "O: purge",
            "good enough for" " now",
            "see /wor" "k/main",
            "decided in issue" " 2",
            "in the next sessi" "on",
        ]:
            self.assertEqual(len(list(faults("a.cc", line))), 1, line)

    def test_the_rule_allows_common_words(self):
        for line in ['mkstemp("/tmp/aXXXXXX")', "the database session ends", "stubborn", "a hack"]:
            self.assertEqual(list(faults("a.cc", line)), [])


if __name__ == "__main__":
    unittest.main()
