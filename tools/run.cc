// pagoda run: starts a program with libpagoda.so preloaded.
#include "hugepage/options.h"
#include "tools/command.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <unistd.h>

namespace pagoda {
namespace {

namespace fs = std::filesystem;

void check_option(const std::string &pair) {
    if (parse_options(pair.c_str(), true) == 0)
        return;
    std::string key = pair.substr(0, pair.find('='));
    for (size_t i = 0; i < kOptionCount; i++)
        if (key == kOptionTable[i].key)
            throw command_error(kUsageError, "'" + pair + "' is not valid: write " + key + "=" +
                                                 kOptionTable[i].values);
    throw command_error(kUsageError,
                        "there is no option '" + key + "'; `pagoda options` lists them");
}

// The library asked for, or else the one beside this command, or where both are installed.
std::string find_library(const std::string &asked) {
    std::vector<fs::path> places;
    if (!asked.empty()) {
        places = {asked};
    } else {
        fs::path here = fs::read_symlink("/proc/self/exe").parent_path();
        places = {here / "libpagoda.so", here / PAGODA_INSTALLED_LIBRARY};
    }
    for (const fs::path &place : places) {
        std::error_code error;
        std::string found = fs::canonical(place, error).string();
        if (error || !fs::is_regular_file(found, error) || access(found.c_str(), R_OK) != 0)
            continue;
        // ld.so knows no way to quote what separates two libraries.
        if (found.find_first_of(": ") != std::string::npos)
            throw command_error(kNotFound, "LD_PRELOAD cannot name '" + found +
                                               "': move the library to a path without spaces and "
                                               "colons, and give it with --lib");
        return found;
    }
    if (!asked.empty())
        throw command_error(kNotFound, "there is no library '" + asked + "' that can be read");
    throw command_error(kNotFound, "libpagoda.so is neither at " + places[0].string() + " nor at " +
                                       places[1].lexically_normal().string() +
                                       "; build it, or name it with --lib");
}

void set_preload(const std::string &library) {
    const char *old = getenv("LD_PRELOAD");
    std::string all = old != nullptr && *old != 0 ? library + ":" + old : library;
    setenv("LD_PRELOAD", all.c_str(), 1);
}

void add_to_options(const std::vector<std::string> &options) {
    const char *old = getenv("PAGODA_OPTIONS");
    std::string all = old != nullptr ? old : "";
    for (const std::string &option : options)
        all += (all.empty() ? "" : ",") + option;
    if (!all.empty())
        setenv("PAGODA_OPTIONS", all.c_str(), 1);
}

[[noreturn]] void execute(const std::vector<std::string> &program) {
    std::vector<char *> argv;
    for (const std::string &word : program)
        argv.push_back(const_cast<char *>(word.c_str()));
    argv.push_back(nullptr);
    execvp(argv[0], argv.data());

    const std::string &name = program[0];
    int error = errno;
    std::error_code ignored;
    if (fs::is_directory(name, ignored))
        throw command_error(kNotExecutable, "'" + name + "' is a directory, not a program");
    if (error == EACCES)
        throw command_error(kNotExecutable,
                            "'" + name +
                                "' may not be executed; if it is a script, name its "
                                "interpreter before it, or make it executable");
    if (error != ENOENT)
        throw command_error(kNotExecutable, "cannot execute '" + name + "': " + strerror(error));
    if (fs::exists(name, ignored) && name.find('/') != std::string::npos)
        throw command_error(kNotFound, "'" + name +
                                           "' is there, but the interpreter that it asks "
                                           "for is not");
    throw command_error(kNotFound, "there is no program '" + name + "'" +
                                       (name.find('/') == std::string::npos
                                            ? " in PATH; for one in this directory write ./" + name
                                            : ""));
}

} // namespace

void run(const run_request &request) {
    if (request.program.empty())
        throw command_error(kUsageError, "no program to run: pagoda run -- PROGRAM [ARGUMENT]...");
    if (request.program[0].size() > 1 && request.program[0][0] == '-')
        throw command_error(kUsageError, "`pagoda run` has no option '" + request.program[0] +
                                             "'; a program's own options stand behind its name");
    std::string library = find_library(request.library);
    for (const std::string &list : request.options) {
        std::istringstream pairs(list);
        for (std::string pair; std::getline(pairs, pair, ',');)
            check_option(pair);
    }
    set_preload(library);
    add_to_options(request.options);
    execute(request.program);
}

} // namespace pagoda
