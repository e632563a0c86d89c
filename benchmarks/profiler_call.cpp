// SPDX-License-Identifier: BSD-3-Clause
// What ranges and a profiler cost that nobody uses. Prints one line of JSON, in nanoseconds a call.
//
//   profiler_call [CALLS]
#include <lockstep/comm/init.h>
#include <lockstep/training/profiler.h>
#include <lockstep/training/range.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

/// The median of some rounds.
template <typename Function>
double nanoseconds_of(std::size_t calls, const Function& function) {
  std::vector<double> rounds;
  for (int round = 0; round < 11; ++round) {
    const auto start = Clock::now();
    for (std::size_t i = 0; i < calls; ++i) function();
    const std::chrono::duration<double, std::nano> time = Clock::now() - start;
    rounds.push_back(time.count() / static_cast<double>(calls));
  }
  std::sort(rounds.begin(), rounds.end());
  return rounds[rounds.size() / 2];
}

int measure(std::size_t calls) {
  namespace training = lockstep::training;
  const auto folder = std::filesystem::temp_directory_path() /
                      ("lockstep_profiler_call_" + std::to_string(::getpid()));
  const auto group = lockstep::init_process_group();
  const double range = nanoseconds_of(calls, [] { const training::Range part("part of a step"); });
  const double clock = nanoseconds_of(calls, [] { static_cast<void>(Clock::now()); });
  double step = 0;
  {
    training::Profiler profiler(group, folder, training::ProfilerOptions().only_on_request(true));
    step = nanoseconds_of(calls, [&] { profiler.step(); });
  }
  std::filesystem::remove_all(folder);
  group->close();
  std::printf("{\"range_ns\":%.1f,\"idle_step_ns\":%.1f,\"clock_ns\":%.1f,\"calls\":%zu}\n", range,
              step, clock, calls);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return measure(argc > 1 ? std::max<std::size_t>(std::stoul(argv[1]), 1) : 1'000'000);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "profiler_call: %s\n", error.what());
    return 1;
  }
}
