// What the subcommands of `pagoda` do. main.cc reads the command line for them; each fails by
// throwing.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

namespace pagoda {

// Exit statuses, as a shell's.
inline constexpr int kUsageError = 2;
inline constexpr int kNotExecutable = 126;
inline constexpr int kNotFound = 127;

class command_error : public std::runtime_error {
  public:
    command_error(int status, const std::string &what)
        : std::runtime_error(what), status_(status) {}
    int status() const { return status_; }

  private:
    int status_;
};

struct run_request {
    std::vector<std::string> options; // KEY=VALUE[,KEY=VALUE]... each
    std::string library;              // empty: Pagoda's own
    std::vector<std::string> program; // and its arguments
};

// Becomes the program, or throws.
[[noreturn]] void run(const run_request &request);

struct keep_request {
    std::string socket;
    bool background = false; // return when it listens
};

// Holds objects until it has neither objects nor clients.
void keep(const keep_request &request);

// The options that PAGODA_OPTIONS and `run -o` understand, on stdout.
void print_options();

} // namespace pagoda
