#include "lib/store.h"

#include "hugepage/sys.h"
#include "lib/heap.h"
#include "tests/unit.h"

#include <atomic>
#include <errno.h>
#include <fcntl.h>
#include <filesystem>
#include <thread>
#include <vector>

namespace pagoda {
namespace {

using test::in_child;
using test::random_numbers;
using test::succeeded;

constexpr size_t kSize = 3 * kPageSize;

class StoreTest : public ::testing::Test {
  protected:
    StoreTest() {
        char name[] = "/tmp/pagoda-store-XXXXXX";
        folder_ = mkdtemp(name);
        socket_ = folder_ + "/socket";
    }
    ~StoreTest() override {
        if (pagoda_store *s = open(false)) { // what holds objects would stay
            if (pid_t keeper = pagoda_store_keeper(s))
                end_keeper(keeper);
            pagoda_store_close(s);
        }
        std::filesystem::remove_all(folder_);
    }
    pagoda_store *open(bool start = true) {
        return pagoda_store_open(socket_.c_str(), start ? PAGODA_COMMAND : nullptr);
    }
    // Ends a keeper and waits until its end is known to those it served: they share no parent.
    static void end_keeper(pid_t keeper) {
        ASSERT_GT(keeper, 1);
        kill(keeper, SIGKILL);
        std::string stat = "/proc/" + std::to_string(keeper);
        for (int i = 0; i < 1000 && access(stat.c_str(), F_OK) == 0; i++) {
            char state = 0;
            if (FILE *f = fopen((stat + "/stat").c_str(), "r")) {
                if (fscanf(f, "%*d %*s %c", &state) != 1)
                    state = 0;
                fclose(f);
            }
            if (state == 'Z')
                break;
            usleep(1000);
        }
    }
    static char *get(pagoda_store *s, const char *key, bool expected, size_t size = kSize) {
        bool found = !expected;
        char *p = static_cast<char *>(pagoda_store_get(s, key, size, &found));
        EXPECT_EQ(found, expected) << key;
        return p;
    }
    // Runs `body` in a child, which ends itself by SIGKILL where it likes.
    template <class F> static int killed(F body) {
        return in_child([&] {
                   body();
                   kill(getpid(), SIGKILL);
               })
            .signal();
    }
    std::string folder_;
    std::string socket_;
};

TEST_F(StoreTest, ContentOutlivesAKilledProgram) {
    EXPECT_EQ(killed([this] {
                  pagoda_store *s = open();
                  ASSERT_GT(pagoda_store_keeper(s), 0);
                  for (int i = 0; i < 200; i++) {
                      std::string key = "object " + std::to_string(i);
                      char *p = get(s, key.c_str(), false);
                      strcpy(p + kSize - 20, key.c_str());
                  }
                  pagoda_store_drop(s, "object 7");
              }),
              SIGKILL);
    pagoda_store *s = open(false);
    ASSERT_GT(pagoda_store_keeper(s), 0);
    for (int i = 0; i < 200; i++) {
        std::string key = "object " + std::to_string(i);
        char *p = get(s, key.c_str(), i != 7);
        ASSERT_STREQ(p + kSize - 20, i != 7 ? key.c_str() : "");
    }
    EXPECT_GT(pagoda_store_keeper(s), 0);
    pagoda_store_close(s);
}

// The keeper is killed while four threads make, write and drop objects.
TEST_F(StoreTest, AKilledKeeperLosesNothingHere) {
    auto end = in_child([this] {
        pagoda_store *s = open();
        pid_t keeper = pagoda_store_keeper(s);
        ASSERT_GT(keeper, 0);
        std::atomic<bool> stop{false};
        std::atomic<int> rounds{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; t++)
            threads.emplace_back([&, t] {
                random_numbers random(static_cast<uint64_t>(t));
                char *mine[20] = {};
                int written[20] = {};
                for (int round = 0; round < 200 || !stop.load(); round++, rounds++) {
                    size_t i = random.below(20);
                    std::string key = std::to_string(t) + "/" + std::to_string(i);
                    if (mine[i] == nullptr) {
                        mine[i] = get(s, key.c_str(), false);
                        ASSERT_NE(mine[i], nullptr);
                    } else if (random.below(4) == 0) {
                        ASSERT_EQ(pagoda_store_drop(s, key.c_str()), 0);
                        mine[i] = nullptr;
                        continue;
                    }
                    memcpy(mine[i] + kPageSize, &round, sizeof round);
                    written[i] = round;
                    for (size_t j = 0; j < 20; j++)
                        ASSERT_TRUE(mine[j] == nullptr ||
                                    memcmp(mine[j] + kPageSize, &written[j], sizeof(int)) == 0);
                }
            });
        while (rounds.load() < 100)
            std::this_thread::yield();
        end_keeper(keeper);
        stop = true;
        for (std::thread &t : threads)
            t.join();
        EXPECT_EQ(pagoda_store_keeper(s), 0);
        pagoda_store_close(s);
    });
    EXPECT_TRUE(succeeded(end));
}

TEST_F(StoreTest, AnotherKeeperTakesOver) {
    EXPECT_EQ(killed([this] {
                  pagoda_store *s = open();
                  strcpy(get(s, "early", false), "before");
                  end_keeper(pagoda_store_keeper(s));
                  EXPECT_EQ(pagoda_store_keeper(s), 0);
                  strcpy(get(s, "late", false), "after"); // local
                  EXPECT_EQ(pagoda_store_renew(s), 0);
                  EXPECT_GT(pagoda_store_keeper(s), 0);
                  strcat(get(s, "early", true), " and after");
              }),
              SIGKILL);
    pagoda_store *s = open(false);
    EXPECT_STREQ(get(s, "early", true), "before and after");
    EXPECT_STREQ(get(s, "late", true), "after");
    pagoda_store_close(s);
}

TEST_F(StoreTest, WithoutAKeeperItIsLocal) {
    pagoda_store *s = open(false);
    ASSERT_NE(s, nullptr);
    EXPECT_EQ(pagoda_store_keeper(s), 0);
    char *p = get(s, "a", false);
    ASSERT_NE(p, nullptr);
    for (size_t i = 0; i < kSize; i++)
        ASSERT_EQ(p[i], 0);
    EXPECT_EQ(get(s, "a", true), p);
    EXPECT_EQ(get(s, "a", true, kSize + 1), nullptr); // another size
    EXPECT_EQ(pagoda_store_renew(s), -ECONNREFUSED);
    EXPECT_EQ(pagoda_store_drop(s, "a"), 0);
    EXPECT_EQ(pagoda_store_drop(s, "a"), -ENOENT);
    pagoda_store_close(s);
    pagoda_store_close(nullptr);
    s = pagoda_store_open(socket_.c_str(), "/no/such/command");
    EXPECT_EQ(pagoda_store_keeper(s), 0);
    pagoda_store_close(s);
}

TEST_F(StoreTest, BadArgumentsGiveNull) {
    EXPECT_EQ(pagoda_store_open("", nullptr), nullptr);
    EXPECT_EQ(pagoda_store_open(std::string(108, 'x').c_str(), nullptr), nullptr);
    pagoda_store *s = open(false);
    std::string longest(PAGODA_STORE_KEY_MAX - 1, 'k');
    bool found;
    EXPECT_NE(pagoda_store_get(s, longest.c_str(), 1, &found), nullptr);
    EXPECT_EQ(pagoda_store_get(s, (longest + "k").c_str(), 1, &found), nullptr);
    EXPECT_EQ(pagoda_store_get(s, "", 1, &found), nullptr);
    EXPECT_EQ(pagoda_store_get(s, "k", 0, &found), nullptr);
    EXPECT_EQ(pagoda_store_get(s, "k", ~size_t{0}, &found), nullptr);
    found = true;
    EXPECT_EQ(pagoda_store_get(s, "k", pagoda::sys::total_memory() + 1, &found), nullptr);
    EXPECT_FALSE(found);
    pagoda_store_close(s);
}

TEST_F(StoreTest, ObjectsOfAnotherSizeAreLeftAlone) {
    pagoda_store *s = open();
    strcpy(get(s, "a", false), "content");
    pagoda_store_close(s);
    s = open(false);
    EXPECT_EQ(get(s, "a", false, kSize + 1), nullptr);
    EXPECT_STREQ(get(s, "a", true), "content");
    pagoda_store_close(s);
}

TEST_F(StoreTest, OneKeeperForManyPrograms) {
    pagoda_store *s = open();
    pid_t keeper = pagoda_store_keeper(s);
    ASSERT_GT(keeper, 0);
    get(s, "shared", false)[0] = 1;
    std::vector<std::thread> clients;
    for (int i = 0; i < 4; i++)
        clients.emplace_back([&] {
            pagoda_store *other = open();
            EXPECT_EQ(pagoda_store_keeper(other), keeper);
            get(other, "shared", true)[0]++;
            pagoda_store_close(other);
        });
    for (std::thread &c : clients)
        c.join();
    EXPECT_GE(get(s, "shared", true)[0], 2);
    pagoda_store_close(s);
}

TEST_F(StoreTest, ManyStartersStartOneKeeper) {
    std::vector<std::thread> starters;
    pagoda_store *stores[6];
    for (pagoda_store *&s : stores)
        starters.emplace_back([&s, this] { s = open(); });
    for (std::thread &t : starters)
        t.join();
    for (pagoda_store *s : stores) {
        EXPECT_EQ(pagoda_store_keeper(s), pagoda_store_keeper(stores[0]));
        EXPECT_GT(pagoda_store_keeper(s), 0);
    }
    for (pagoda_store *s : stores)
        pagoda_store_close(s);
}

TEST_F(StoreTest, TheKeeperEndsWithItsLastObjectAndProgram) {
    pagoda_store *s = open();
    pid_t keeper = pagoda_store_keeper(s);
    ASSERT_GT(keeper, 0);
    get(s, "a", false);
    EXPECT_EQ(pagoda_store_drop(s, "a"), 0);
    pagoda_store_close(s);
    for (int i = 0; i < 2000 && access(socket_.c_str(), F_OK) == 0; i++)
        usleep(1000);
    EXPECT_NE(access(socket_.c_str(), F_OK), 0);
}

} // namespace
} // namespace pagoda
