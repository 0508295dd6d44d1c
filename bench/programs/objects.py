"""Objects of every kind that a Python program lives on: objects.py ROUNDS prints one checksum."""

import gc
import hashlib
import sys


class Node:
    """An ordinary object with a dictionary, in a cycle with its children."""

    def __init__(self, key, parent=None):
        self.key = key
        self.parent = parent
        self.children = []


def grow_tree(depth, width, key=1, parent=None):
    node = Node(key, parent)
    if depth:
        node.children = [grow_tree(depth - 1, width, key * width + i, node) for i in range(width)]
    return node


def tree_sum(node):
    return node.key % 1000 + sum(tree_sum(child) for child in node.children)


def words(count, seed):
    state = seed
    made = []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        made.append("w%x" % (state >> (40 + state % 13)))
    return made


def index_words(text):
    places = {}
    for position, word in enumerate(text):
        places.setdefault(word, []).append(position)
    return sum(len(found) * len(word) for word, found in places.items())


def build_document(size):
    parts = []
    for i in range(size):
        parts.append("%d:%s" % (i, "x" * (i % 97)))
    text = ",".join(parts)
    fields = [part.split(":") for part in text.split(",")]
    return sum(int(number) + len(body) for number, body in fields)


def big_numbers(count):
    value = 3
    for i in range(count):
        value = value * value % (1 << 2000) + i
    return value % 1000003


def tables(rows):
    table = [(i, float(i) / 3, str(i), {"id": i, "tags": (i, i + 1)}) for i in range(rows)]
    table.sort(key=lambda row: row[2])
    return sum(row[3]["tags"][1] % 7 for row in table[::3])


def main():
    rounds = int(sys.argv[1])
    check = hashlib.sha256()
    for i in range(rounds):
        results = (
            tree_sum(grow_tree(6, 4)),
            index_words(words(30000, i + 1)),
            build_document(20000),
            big_numbers(500),
            tables(15000),
        )
        check.update(repr(results).encode())
        if i % 4 == 3:
            gc.collect()
    print(check.hexdigest())


main()
