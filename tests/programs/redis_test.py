#!/usr/bin/env python3
"""redis-server on Pagoda, under redis-benchmark, with both forms of persistence read again."""

import random
import socket

import program


class Client:
    """The few words of the Redis protocol that the test speaks, over a Unix socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.stream = self.socket.makefile("rb")

    def close(self):
        self.stream.close()
        self.socket.close()

    @staticmethod
    def request(words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word)
                                                  for word in words)

    def send(self, *words):
        self.socket.sendall(self.request(words))

    def reply(self):
        line = self.stream.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return self.stream.read(int(rest) + 2)[:-2] if int(rest) >= 0 else None
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        if kind == b"-":
            raise AssertionError(rest.decode())
        return int(rest) if kind == b":" else rest

    def __call__(self, *words):
        self.send(*words)
        return self.reply()

    def many(self, commands):
        """The replies to many commands, a hundred under way at a time."""
        for first in range(0, len(commands), 100):
            batch = commands[first:first + 100]
            self.socket.sendall(b"".join(self.request(words) for words in batch))
            for _ in batch:
                yield self.reply()


class Redis(program.ProgramTest):
    needs = ("redis-server", "redis-benchmark")

    def start_server(self, *options):
        """Starts redis-server and waits until it has read its data."""
        path = self.dir / "socket"
        log = (self.dir / "log").open("ab")
        self.addCleanup(log.close)
        server = self.start("redis-server", "--port", "0", "--unixsocket", path, "--dir", self.dir,
                            "--save", "", "--enable-debug-command", "yes", "--io-threads", "2",
                            *options, stdout=log, stderr=log)
        self.wait_for(lambda: path.exists() or server.poll() is not None, "redis-server's socket")
        self.assertIsNone(server.poll(), (self.dir / "log").read_text())
        redis = Client(path)
        self.addCleanup(redis.close)
        self.wait_for(lambda: not self.info(redis, "persistence")["loading"], "loading")
        return server, redis

    def stop_server(self, server, redis, at_least):
        redis.send("SHUTDOWN", "NOSAVE")
        self.assertEqual(server.wait(60), 0)
        self.assert_no_complaint((self.dir / "log").read_bytes())
        self.assert_served(at_least, pid=server.pid)

    @staticmethod
    def info(redis, section):
        pairs = (line.split(":", 1) for line in redis("INFO", section).decode().split("\r\n")
                 if ":" in line)
        return {name: int(text) if text.lstrip("-").isdigit() else text for name, text in pairs}

    def save(self, redis, command, running, outcome):
        """Runs a save in the child of a fork while the parent goes on writing."""
        redis(command)
        writes = [("SET", f"during:{i % 500}", f"{command} {i}") for i in range(10_000)]
        self.assertEqual(set(redis.many(writes)), {b"OK"})
        self.wait_for(lambda: not self.info(redis, "persistence")[running], command)
        self.assertEqual(self.info(redis, "persistence")[outcome], "ok")

    def fill(self, redis):
        rng = random.Random(1)
        model, commands, expected = {}, [], []
        for i in range(30_000):
            growing = rng.random() < 0.2
            key = f"growing:{i % 50}" if growing else f"key:{rng.randrange(8_000)}"
            if not growing and rng.random() < 0.3:
                commands.append(("DEL", key))
                expected.append(int(model.pop(key, None) is not None))
            else:
                piece = rng.randbytes(rng.choice((3, 40, 300, 3_000)))
                commands.append(("APPEND", key, piece))
                model[key] = model.get(key, b"") + piece
                expected.append(len(model[key]))
        self.assertEqual(list(redis.many(commands)), expected)
        model["big"] = rng.randbytes(9 << 20)
        redis("SET", "big", model["big"])
        for i in range(4_000):
            commands = (("HSET", f"hash:{i % 40}", f"field{i}", "v" * (i % 200)),
                        ("ZADD", f"sorted:{i % 20}", i * 7919 % 4_001, f"member{i}"),
                        ("RPUSH", f"list:{i % 30}", f"item{i}" * (i % 9)),
                        ("SADD", f"set:{i % 25}", f"member{i % 1_000}"))
            for reply in redis.many(commands):
                self.assertIsInstance(reply, int)
        return model

    def check(self, redis, model, digest):
        self.assertEqual(redis("DEBUG", "DIGEST"), digest)
        texts = redis.many([("GET", key) for key in model])
        self.assertTrue(all(text == found for text, found in zip(model.values(), texts)))
        members = redis("ZRANGE", "sorted:3", 0, -1)
        expected = sorted((i * 7919 % 4_001, i) for i in range(3, 4_000, 20))
        self.assertEqual(members, [b"member%d" % i for _, i in expected])
        self.assertEqual(redis("HGET", "hash:5", "field165"), b"v" * 165)

    def benchmark(self):
        result = self.run_program(
            "redis-benchmark", "-s", self.dir / "socket", "-n", 20_000, "-c", 40, "-P", 8, "-r",
            20_000, "-d", 200, "--threads", 2, "--csv", "-t",
            "set,get,incr,lpush,rpush,lpop,rpop,sadd,hset,spop,zadd,zpopmin,lrange_100,mset")
        rows = [line.split(",") for line in result.text.splitlines() if line.startswith('"')]
        self.assertGreaterEqual(len(rows), 14, result.text)
        for row in rows[1:]:
            self.assertGreater(float(row[1].strip('"')), 0, row)
        self.assert_served(200, pid=result.pid)

    def test_benchmark_and_persistence(self):
        log_form = ("--appendonly", "yes", "--appendfsync", "no")
        server, redis = self.start_server(*log_form)
        model = self.fill(redis)
        self.benchmark()
        self.save(redis, "BGREWRITEAOF", "aof_rewrite_in_progress", "aof_last_bgrewrite_status")
        self.save(redis, "BGSAVE", "rdb_bgsave_in_progress", "rdb_last_bgsave_status")
        digest = redis("DEBUG", "DIGEST")
        self.check(redis, model, digest)
        self.stop_server(server, redis, at_least=100_000)

        server, redis = self.start_server(*log_form)
        self.check(redis, model, digest)
        redis("SAVE")
        redis("FLUSHALL")
        self.assertEqual(redis("DBSIZE"), 0)
        redis("MEMORY", "PURGE")
        self.stop_server(server, redis, at_least=100_000)

        server, redis = self.start_server("--appendonly", "no")
        self.check(redis, model, digest)
        self.stop_server(server, redis, at_least=100_000)


if __name__ == "__main__":
    program.main()
