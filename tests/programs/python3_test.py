#!/usr/bin/env python3
"""Debian's python3 on Pagoda: its own objects, threads and processes."""

import program

# Sums that are known beforehand are asserted by the script itself; the digest is compared with a
# run on glibc.
SCRIPT = """
import hashlib, json, multiprocessing, re, threading, zlib

digest = hashlib.sha256()

def small_objects():
    table = {i: [str(i), (i, i * i), {"k": "v" * (i % 97)}] for i in range(60_000)}
    for i in range(0, 60_000, 3):
        del table[i]
    assert sum(v[1][0] for v in table.values()) == sum(i for i in range(60_000) if i % 3)
    text = json.dumps(table)
    assert {int(k): [v[0], tuple(v[1]), v[2]] for k, v in json.loads(text).items()} == table
    digest.update(text.encode())

def growing():
    buffer = bytearray()
    for i in range(200_000):
        buffer += b"%d," % i
    assert sum(map(int, bytes(buffer).rstrip(b",").split(b","))) == 199_999 * 100_000
    assert zlib.decompress(zlib.compress(buffer)) == buffer
    digest.update(buffer)
    digest.update(re.sub(rb"(\\d)(\\d)", rb"\\2\\1", bytes(buffer)))
    number = 1
    for i in range(1, 3000):
        number *= i
    assert number % 2999 == 0 and pow(number, 1, 3001) == 1  # Wilson: 2999! = 1 mod the prime 3001
    digest.update(str(number % 10**4000).encode())

def threads():
    results = {}
    def work(n):
        results[n] = sum(len(str([j] * (j % 50))) for j in range(8_000))
    team = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    [t.start() for t in team]
    [t.join() for t in team]
    assert len(set(results.values())) == 1 and len(results) == 8
    digest.update(str(results[0]).encode())

def square(n):
    return n, len(zlib.compress(bytes(n))), n * n

def processes():
    with multiprocessing.get_context("fork").Pool(3) as pool:
        squares = pool.map(square, range(2_000))
    assert sum(s for _, _, s in squares) == sum(n * n for n in range(2_000))
    digest.update(repr(squares).encode())

small_objects()
growing()
threads()
processes()
print(digest.hexdigest())
"""


class Python3(program.ProgramTest):
    needs = ("/usr/bin/python3",)

    def test_prints(self):
        result = self.run_program("/usr/bin/python3", "-c", "print(42)")
        self.assertEqual(result.stdout, b"42\n")
        self.assert_served(150, pid=result.pid)

    def test_script(self):
        result = self.run_twice("/usr/bin/python3", "-c", SCRIPT, env={"PYTHONHASHSEED": "7"})
        self.assert_served(2_000, pid=result.pid)

    def test_script_with_all_objects_from_malloc(self):
        result = self.run_twice("/usr/bin/python3", "-c", SCRIPT,
                                env={"PYTHONHASHSEED": "7", "PYTHONMALLOC": "malloc"})
        self.assert_served(400_000, pid=result.pid)


if __name__ == "__main__":
    program.main()
