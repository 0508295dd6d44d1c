#!/usr/bin/env python3
"""sqlite3 on Pagoda: a database file written, indexed, searched, shrunk and checked."""

import program

ROWS = 200_000
SCRIPT = f"""
PRAGMA cache_size = -60000;
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, amount INTEGER, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
INSERT INTO item SELECT i, printf('name-%07d', i * 7919 % {ROWS}), i % 1000,
                        substr(hex(i * 2654435761), 1, i % 11 + 1) FROM n;
CREATE INDEX by_name ON item(name);
CREATE INDEX by_amount ON item(amount, note);
SELECT count(*), sum(id), count(DISTINCT name) FROM item;
SELECT a.amount, count(*), sum(b.id) FROM item a JOIN item b ON b.name = printf('name-%07d', a.id)
  WHERE a.amount % 100 = 0 GROUP BY a.amount ORDER BY a.amount;
SELECT id, name, sum(amount) OVER (ORDER BY note, id ROWS 100 PRECEDING) AS s FROM item
  ORDER BY s DESC, id LIMIT 50;
SELECT length(group_concat(name, '/')) FROM (SELECT name FROM item ORDER BY name DESC);
SELECT json_array_length(json_group_array(json_object('n', name, 'a', amount))) FROM item;
CREATE VIRTUAL TABLE text USING fts5(body);
INSERT INTO text SELECT name || ' word' || (id % 50) || ' ' || note FROM item WHERE id <= 30000;
SELECT count(*) FROM text WHERE text MATCH 'word7';
DELETE FROM item WHERE id % 3 = 0;
UPDATE item SET note = note || name WHERE id % 5 = 0;
VACUUM;
SELECT count(*), sum(id) FROM item;
PRAGMA integrity_check;
"""


class Sqlite3(program.ProgramTest):
    needs = ("sqlite3",)

    def test_database(self):
        expected = self.run_program("sqlite3", "-bail", "glibc.db", on_pagoda=False, input=SCRIPT)
        result = self.run_program("sqlite3", "-bail", "pagoda.db", input=SCRIPT)
        self.assertEqual(result.stdout, expected.stdout)
        lines = result.text.splitlines()
        self.assertEqual(lines[0], f"{ROWS}|{ROWS * (ROWS + 1) // 2}|{ROWS}")
        kept = [i for i in range(1, ROWS + 1) if i % 3]
        self.assertEqual(lines[-3:], ["600", f"{len(kept)}|{sum(kept)}", "ok"])
        self.assertEqual((self.dir / "pagoda.db").read_bytes(),
                         (self.dir / "glibc.db").read_bytes())
        self.assert_served(5_000, pid=result.pid)


if __name__ == "__main__":
    program.main()
