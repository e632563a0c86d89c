// SPDX-License-Identifier: BSD-3-Clause
// How long a log call to `file_log` keeps its caller. Prints one line of JSON.
//
//   log_call [CALLS] [FOLDER]
#include <lockstep/core/logging.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/log_sinks.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "percentile.h"

namespace {

using bench::percentile;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kBurst = 100;  // lines that a program logs together
constexpr std::chrono::milliseconds kPause{2};

/// The time between two looks at the clock, which each measurement has in it.
double clock_cost() {
  std::vector<std::int64_t> times(10'001);
  for (auto& time : times) {
    const auto start = Clock::now();
    time = (Clock::now() - start).count();
  }
  return percentile(times, 0.5);
}

int measure(std::size_t calls, const std::filesystem::path& folder) {
  namespace training = lockstep::training;
  // Another run may have the same folder.
  const auto path = folder / ("log_call_" + std::to_string(::getpid()) + ".log");
  auto writer = std::make_shared<training::BackgroundWriter>();
  lockstep::set_log_sink(training::file_log(writer, path));
  lockstep::logging::set_level(lockstep::logging::Level::Info);
  const std::string line = "step 12345: loss 0.123456, 1234.5 samples/s, learning rate 0.001000";
  std::vector<std::int64_t> times;
  times.reserve(calls);
  while (times.size() < calls) {
    for (std::size_t i = 0; i < kBurst && times.size() < calls; ++i) {
      const auto start = Clock::now();
      lockstep::logging::info(line);
      times.push_back((Clock::now() - start).count());
    }
    std::this_thread::sleep_for(kPause);
  }
  const bool is_written = writer->flush(std::chrono::minutes(1));
  const auto statistics = writer->statistics();
  lockstep::set_log_sink({});
  writer.reset();
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  std::printf(
      "{\"log_call_p50_ns\":%.0f,\"log_call_p99_ns\":%.0f,\"log_call_p999_ns\":%.0f,"
      "\"clock_ns\":%.0f,\"calls\":%zu,\"lines_written\":%llu,\"lines_lost\":%llu}\n",
      percentile(times, 0.5), percentile(times, 0.99), percentile(times, 0.999), clock_cost(),
      calls, static_cast<unsigned long long>(statistics.lines_written),
      static_cast<unsigned long long>(statistics.lines_lost));
  // Lost lines cost less: the times would say nothing.
  return is_written && statistics.lines_lost == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::size_t calls = argc > 1 ? std::stoul(argv[1]) : 200'000;
    return measure(std::max<std::size_t>(calls, 1),
                   argc > 2 ? argv[2] : std::filesystem::temp_directory_path());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "log_call: %s\n", error.what());
    return 1;
  }
}
