// SPDX-License-Identifier: BSD-3-Clause
// Makes a page of HTML of what a run has left in its folder.
#include <lockstep/core/version.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>

#include "page.h"

namespace {

constexpr int kUsageError = 2;

constexpr const char* kHelp =
    "Usage: lockstep-report RUN [-o FILE]\n"
    "\n"
    "Makes one page of HTML of the files in the folder RUN and the folders in it: run logs\n"
    "(*.jsonl, of lockstep::training::RunLog), files for Prometheus (*.prom), and the MANIFEST of\n"
    "checkpoints. The page shows curves, throughput, parts of a step, waits for data, and\n"
    "checkpoints. It needs no other file and runs no script.\n"
    "\n"
    "  -o FILE     where the page goes (default RUN/report.html); - is stdout\n"
    "  --help      this text\n"
    "  --version   the version of Lockstep\n";

struct Arguments {
  std::string run;
  std::string output;
  std::string mistake;
  bool wants_help = false;
  bool wants_version = false;
};

Arguments parse(int argc, char** argv) {
  Arguments result;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      result.wants_help = true;
    } else if (argument == "--version") {
      result.wants_version = true;
    } else if (argument == "-o") {
      if (++i == argc) {
        result.mistake = "-o needs a file";
        return result;
      }
      result.output = argv[i];
    } else if (argument.starts_with('-') && argument.size() > 1) {
      result.mistake = "'" + argument + "' is no option";
    } else if (!result.run.empty()) {
      result.mistake = "'" + argument + "' is one folder too many";
    } else {
      result.run = argument;
    }
  }
  if (result.run.empty() && result.mistake.empty()) result.mistake = "there is no folder of a run";
  return result;
}

/// Under its name when all of it is there: a browser may look at the old page meanwhile.
void write(const std::string& page, const std::filesystem::path& path) {
  std::error_code unknown;
  const auto kind = std::filesystem::status(path, unknown);
  if (std::filesystem::exists(kind) && !std::filesystem::is_regular_file(kind)) {
    // A device, a pipe: not to be replaced by a file. A folder is an error here.
    std::ofstream other(path, std::ios::binary);
    other << page;
    other.close();
    if (!other) throw std::runtime_error("'" + path.string() + "' cannot be written");
    return;
  }
  const auto target = std::filesystem::weakly_canonical(path);  // of a link, what it names
  auto temporary = target;
  temporary += ".tmp" + std::to_string(::getpid());
  std::ofstream file(temporary, std::ios::binary);
  file << page;
  file.close();
  std::error_code error;
  if (file) std::filesystem::rename(temporary, target, error);
  if (file && !error) return;
  const auto reason = error ? error.message() : std::generic_category().message(errno);
  std::filesystem::remove(temporary, error);
  throw std::runtime_error("'" + path.string() + "' cannot be written: " + reason);
}

int run(const Arguments& arguments) {
  const auto page = report::page_of(arguments.run);
  if (arguments.output == "-") {
    const bool is_written = std::fwrite(page.data(), 1, page.size(), stdout) == page.size();
    if (!is_written || std::fflush(stdout) != 0)
      throw std::runtime_error("stdout cannot be written");
    return 0;
  }
  const auto path = arguments.output.empty() ? std::filesystem::path(arguments.run) / "report.html"
                                             : std::filesystem::path(arguments.output);
  write(page, path);
  std::printf("%s\n", path.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const auto arguments = parse(argc, argv);
  if (arguments.wants_help) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (arguments.wants_version) {
    std::printf("%d.%d.%d\n", LOCKSTEP_VERSION_MAJOR, LOCKSTEP_VERSION_MINOR,
                LOCKSTEP_VERSION_PATCH);
    return 0;
  }
  if (!arguments.mistake.empty()) {
    std::fprintf(stderr, "lockstep-report: %s (--help lists the options)\n",
                 arguments.mistake.c_str());
    return kUsageError;
  }
  try {
    return run(arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lockstep-report: %s\n", error.what());
    return 1;
  }
}
