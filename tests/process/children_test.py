"""New processes and threads: fork from busy threads, vfork, posix_spawn, clone, thread churn."""

import unittest

from harness import Case


class Children(Case):
    def test_every_way_to_start_a_process(self):
        self.passes("spawn")

    def test_every_way_beside_busy_threads(self):
        self.passes("spawn", 4)

    def test_500_forks_beside_four_busy_threads(self):
        self.passes("fork_storm")

    def test_500_forks_of_a_program_linked_with_the_archive(self):
        self.passes("fork_storm_static", preload=False)

    def test_fork_handlers_of_a_library_that_started_first(self):
        self.passes("fork_handlers")
        self.passes("fork_handlers", options="percpu=off", quiet=False)

    def test_forks_with_thread_slots(self):
        self.passes("fork_storm", options="percpu=off")


class Threads(Case):
    def test_20000_threads(self):
        self.passes("thread_churn")

    def test_20000_threads_with_thread_slots(self):
        self.passes("thread_churn", options="percpu=off")

    def test_blocks_go_from_thread_to_thread(self):
        self.passes("workout", 16, 5000, 1 << 20)


if __name__ == "__main__":
    unittest.main()
