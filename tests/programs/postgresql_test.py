#!/usr/bin/env python3
"""PostgreSQL on Pagoda: a cluster made, loaded and worked by pgbench, stopped and read again."""

import glob
import grp
import os
import pwd
import shutil
import signal

import program

BIN = (sorted(glob.glob("/usr/lib/postgresql/*/bin")) or ["/usr/lib/postgresql/bin"])[-1]
SCALE = 3
TRANSACTIONS = 400  # for each of four clients

HEAVY = """
SELECT count(*), sum(n), count(DISTINCT md5(n::text)) FROM generate_series(1, 200000) n;
SELECT sum(length(string)) FROM (SELECT string_agg(n::text, ',' ORDER BY md5(n::text)) AS string
  FROM generate_series(1, 100000) n GROUP BY n % 100) parts;
SELECT jsonb_array_length(jsonb_agg(jsonb_build_object('a', n, 'b', repeat('x', n % 50))))
  FROM generate_series(1, 50000) n;
SELECT count(*) FROM (SELECT regexp_replace(md5(n::text), '([0-9]+)', '<\\1>', 'g') AS r
  FROM generate_series(1, 20000) n) x WHERE r LIKE '%<%>%';
"""


class PostgreSql(program.ProgramTest):
    needs = (f"{BIN}/postgres", f"{BIN}/initdb", f"{BIN}/pgbench", f"{BIN}/pg_ctl")

    def setUp(self):
        super().setUp()
        self.user = {}
        if os.getuid() == 0:  # the server refuses to run as root
            name = "postgres"
            self.user = {"user": pwd.getpwnam(name).pw_uid, "group": grp.getgrnam(name).gr_gid,
                         "extra_groups": []}
            os.chown(self.dir, self.user["user"], self.user["group"])
        # That user may not be able to reach the build tree.
        self.library = shutil.copy(self.library, self.dir / self.library.name)
        self.library.chmod(0o755)
        self.data = self.dir / "data"

    def pg(self, name, *words, **more):
        return self.run_program(f"{BIN}/{name}", *words, env={"PGHOST": str(self.dir)},
                                **self.user, **more)

    def sql(self, text):
        return self.pg("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "postgres", input=text)

    def start_server(self):
        log = (self.dir / "log").open("ab")
        self.addCleanup(log.close)
        server = self.start(f"{BIN}/postgres", "-D", self.data, "-k", self.dir,
                            "-c", "listen_addresses=", "-c", "shared_buffers=32MB",
                            "-c", "work_mem=32MB", "-c", "max_wal_size=256MB",
                            "-c", "dynamic_shared_memory_type=mmap",
                            stdout=log, stderr=log, **self.user)
        ready = self.data / "postmaster.pid"
        self.wait_for(lambda: server.poll() is not None
                      or ready.exists() and ready.read_text().splitlines()[-1].strip() == "ready",
                      "postgres")
        self.assertIsNone(server.poll(), (self.dir / "log").read_text())
        return server

    def stop_server(self, server):
        server.send_signal(signal.SIGINT)  # "fast": the server ends its backends and checkpoints
        self.assertEqual(server.wait(60), 0)
        log = (self.dir / "log").read_text()
        for wrong in ("PANIC", "FATAL", "was terminated by signal", "corrupt", "invalid memory"):
            self.assertNotIn(wrong, log)
        self.assert_no_complaint(log.encode())

    def balances(self):
        result = self.sql("""
            SELECT (SELECT count(*) FROM pgbench_history), (SELECT sum(delta) FROM pgbench_history),
                   (SELECT sum(abalance) FROM pgbench_accounts),
                   (SELECT sum(tbalance) FROM pgbench_tellers),
                   (SELECT sum(bbalance) FROM pgbench_branches)""")
        return [int(word) for word in result.text.strip().split("|")]

    def test_cluster(self):
        self.pg("initdb", "-D", self.data, "-A", "trust", "--no-locale", "-E", "UTF8", "-N")
        self.assert_served(2_000, program="postgres")  # the bootstrap and single-user backends
        server = self.start_server()
        self.pg("pgbench", "-q", "-i", "-s", SCALE, "postgres")
        bench = self.pg("pgbench", "-c", 4, "-j", 2, "-t", TRANSACTIONS, "postgres")
        self.assertIn(f"transactions actually processed: {4 * TRANSACTIONS}", bench.text)
        self.assertIn("number of failed transactions: 0", bench.text)
        self.assert_served(500, pid=bench.pid)

        balances = self.balances()
        self.assertEqual(balances[0], 4 * TRANSACTIONS)
        self.assertEqual(len(set(balances[1:])), 1, balances)

        rows = self.sql(HEAVY + "SELECT pg_backend_pid();").text.split()
        digits = sum(len(str(n)) for n in range(1, 100_001))
        self.assertEqual(rows[:4], [f"200000|{200_000 * 200_001 // 2}|200000",
                                    str(digits + 100_000 - 100), "50000", "20000"])
        backend = int(rows[4])
        self.wait_for(lambda: self.reports(pid=backend), "the backend's exit report")
        self.assert_served(1_000, pid=backend)

        self.stop_server(server)
        self.assert_served(1_000, pid=server.pid)
        server = self.start_server()
        self.assertEqual(self.balances(), balances)
        self.pg("pg_amcheck", "--install-missing", "--heapallindexed", "postgres")
        self.stop_server(server)


if __name__ == "__main__":
    program.main()
