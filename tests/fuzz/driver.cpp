// SPDX-License-Identifier: BSD-3-Clause
// Runs targets on inputs made from their seeds. Ends with status 1 at the first run that does
// anything else than accept its input or throw c10::Error; the sanitizers end it themselves. Either
// way the run is named, and `--first RUN --runs 1` repeats it.
//
//   PROGRAM [TARGET ...] [--runs N] [--seconds S] [--seed N] [--first N] [--keep FILE]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <stdexcept>

#include "fuzz/mutation.h"

// Of the sanitizers, where they are linked.
extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace lockstep::fuzz {
namespace {

struct Arguments {
  std::vector<std::string> targets;
  std::uint64_t runs = 10000;
  double seconds = 1e9;
  std::uint64_t seed = 1;
  std::uint64_t first = 0;
  std::string keep;
};

// For whoever reports a crash.
struct {
  const char* target = "";
  std::uint64_t seed = 0;
  std::uint64_t run = 0;
} now;

void report_run() {
  std::fprintf(stderr, "fuzz: in target %s; repeat it with --seed %llu --first %llu --runs 1\n",
               now.target, static_cast<unsigned long long>(now.seed),
               static_cast<unsigned long long>(now.run));
}

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind("--", 0) != 0) {
      arguments.targets.push_back(word);
      continue;
    }
    if (i + 1 == argc) throw std::invalid_argument(word + " needs a value");
    const std::string value = argv[++i];
    if (word == "--runs") {
      arguments.runs = std::stoull(value);
    } else if (word == "--seconds") {
      arguments.seconds = std::stod(value);
    } else if (word == "--seed") {
      arguments.seed = std::stoull(value);
    } else if (word == "--first") {
      arguments.first = std::stoull(value);
    } else if (word == "--keep") {
      arguments.keep = value;
    } else {
      throw std::invalid_argument(word + " is no option");
    }
  }
  return arguments;
}

void keep(const std::string& file, const Bytes& input) {
  if (file.empty()) return;
  std::ofstream(file, std::ios::binary)
      .write(reinterpret_cast<const char*>(input.data()),
             static_cast<std::streamsize>(input.size()));
}

// A seed that is refused would mean that nothing behind the first check is ever reached.
bool run_target(const FuzzTarget& target, const Arguments& arguments) {
  for (std::size_t i = 0; i < target.seeds.size(); ++i) {
    if (is_accepted(target, target.seeds[i])) continue;
    std::fprintf(stderr, "fuzz: target %s refuses its seed %zu\n", target.name.c_str(), i);
    return false;
  }
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  std::uint64_t accepted = 0;
  std::uint64_t done = 0;
  for (; done < arguments.runs && elapsed() < arguments.seconds; ++done) {
    now = {target.name.c_str(), arguments.seed, arguments.first + done};
    const auto input = mutated_input(target, now.seed, now.run);
    keep(arguments.keep, input);
    try {
      accepted += is_accepted(target, input) ? 1U : 0U;
    } catch (const std::exception& error) {
      std::fprintf(stderr, "fuzz: an exception of another type: %s\n", error.what());
      report_run();
      return false;
    }
  }
  std::printf("fuzz: %s: %llu runs, %llu accepted, %.1f s\n", target.name.c_str(),
              static_cast<unsigned long long>(done), static_cast<unsigned long long>(accepted),
              elapsed());
  return done > 0;
}

int run_all(const Arguments& arguments) {
  std::size_t matched = 0;
  for (const auto& target : fuzz_targets()) {
    const auto& wanted = arguments.targets;
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), target.name) == wanted.end()) {
      continue;
    }
    ++matched;
    if (!run_target(target, arguments)) return 1;
  }
  if (matched == 0 || (!arguments.targets.empty() && matched != arguments.targets.size())) {
    std::fprintf(stderr, "fuzz: there is no such target\n");
    return 2;
  }
  return 0;
}

}  // namespace

}  // namespace lockstep::fuzz

int main(int argc, char** argv) {
  using namespace lockstep::fuzz;
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(report_run);
  try {
    return run_all(parse(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fuzz: %s\n", error.what());
    return 2;
  }
}
