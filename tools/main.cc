// pagoda: runs programs on Pagoda, and says what it can be told.
#include "tools/command.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace pagoda {
namespace {

// The parser does not know of the program and its arguments, so their place is told here.
struct run_help : CLI::Formatter {
    std::string make_usage(const CLI::App *, std::string) const override {
        return "Usage: pagoda run [OPTION]... -- PROGRAM [ARGUMENT]...\n";
    }
};

// `tail` is the command line from its first `--` on: the program's own words, never parsed.
void add_run(CLI::App &app, run_request &request, const std::vector<std::string> &tail) {
    CLI::App *command = app.add_subcommand("run", "Run a program on Pagoda");
    command->formatter(std::make_shared<run_help>());
    command->prefix_command();
    command
        ->add_option("-o,--option", request.options, "Set an option; `pagoda options` lists them")
        ->type_name("KEY=VALUE")
        ->allow_extra_args(false);
    command->add_option("--lib", request.library, "Preload this library instead of Pagoda's own")
        ->type_name("PATH");
    command->footer("LD_PRELOAD and PAGODA_OPTIONS of the environment stay in force.\n"
                    "Exit status: the program's; 127 where it or the library was not found, 126\n"
                    "where it cannot be executed, 2 where the command line is wrong.\n\n"
                    "  pagoda run -- python3 app.py\n"
                    "  pagoda run -o on_error=report -o dirty=64M -- redis-server");
    command->callback([command, &request, &tail] {
        // Without a `--` before it, the program begins at the first word that is no option of ours.
        request.program = command->remaining();
        auto from = tail.begin() + (request.program.empty() && !tail.empty() ? 1 : 0);
        request.program.insert(request.program.end(), from, tail.end());
        run(request);
    });
}

void add_keep(CLI::App &app, keep_request &request) {
    CLI::App *command = app.add_subcommand("keep", "Keep the objects of cold stores");
    command->add_option("socket", request.socket, "Path of the socket to listen on")
        ->type_name("SOCKET")
        ->required();
    command->add_flag("-b,--background", request.background, "Return as soon as it listens");
    command->footer("Programs open the store with pagoda_store_open(), see cold.h. Ends with the\n"
                    "last object and the last program. SOCKET.lock beside the socket remains.");
    command->callback([&request] { keep(request); });
}

int command_line(int argc, char **argv) {
    char **stop = std::find(argv, argv + argc, std::string("--"));
    const std::vector<std::string> tail(stop, argv + argc);
    run_request request;
    keep_request kept;

    CLI::App app{"Pagoda: a memory allocator with the shape of the Linux kernel's."};
    app.name("pagoda");
    app.set_version_flag("--version", "pagoda " PAGODA_VERSION, "Print the version and exit");
    app.failure_message([](const CLI::App *, const CLI::Error &error) {
        return std::string("pagoda: ") + error.what() + "; see pagoda --help\n";
    });
    add_run(app, request, tail);
    add_keep(app, kept);
    app.add_subcommand("options", "List what PAGODA_OPTIONS and `run -o` understand")
        ->callback(print_options);

    try {
        app.parse(static_cast<int>(stop - argv), argv);
    } catch (const CLI::ParseError &error) {
        return app.exit(error) == 0 ? 0 : kUsageError;
    } catch (const command_error &error) {
        fprintf(stderr, "pagoda: %s\n", error.what());
        return error.status();
    }
    if (app.get_subcommands().empty()) {
        fputs(app.help().c_str(), stderr);
        return kUsageError;
    }
    return 0;
}

} // namespace
} // namespace pagoda

int main(int argc, char **argv) { return pagoda::command_line(argc, argv); }
