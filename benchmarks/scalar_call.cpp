// SPDX-License-Identifier: BSD-3-Clause
// How long `TensorBoard::scalar` keeps its caller: in bursts as a program logs them, and a million
// in a row. Prints one line of JSON.
//
//   scalar_call [CALLS] [FOLDER]
#include <lockstep/training/background_writer.h>
#include <lockstep/training/tensorboard.h>

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

constexpr std::size_t kBurst = 100;  // scalars that a program adds together
constexpr std::chrono::milliseconds kPause{2};
constexpr std::int64_t kInARow = 1'000'000;

/// Removed at the end.
class Folder {
 public:
  explicit Folder(const std::filesystem::path& parent)
      : path_(parent / ("scalar_call." + std::to_string(Clock::now().time_since_epoch().count()))) {
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

double nanoseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

/// Of a call, the mean of each burst: a look at the clock costs as much as a part of a call.
std::vector<double> in_bursts(lockstep::training::TensorBoard& board, std::size_t calls) {
  std::vector<double> times;
  std::int64_t step = 0;
  while (times.size() * kBurst < calls) {
    const auto start = Clock::now();
    for (std::size_t i = 0; i < kBurst; ++i) {
      board.scalar("loss/train", 0.25 * static_cast<double>(step), step);
      ++step;
    }
    times.push_back(nanoseconds_since(start) / static_cast<double>(kBurst));
    std::this_thread::sleep_for(kPause);
  }
  return times;
}

int measure(std::size_t calls, const std::filesystem::path& parent) {
  namespace training = lockstep::training;
  const Folder folder(parent);
  // A call waits for room as long as it must, so that a busy disk makes it slower and loses
  // nothing.
  training::TensorBoard board(
      folder.path(),
      training::TensorBoardOptions().writer(std::make_shared<training::BackgroundWriter>(
          training::BackgroundWriterOptions()
              .batch_delay(training::TensorBoardOptions().flush_interval())
              .full_queue_wait(std::chrono::minutes(1)))));
  auto times = in_bursts(board, calls);
  board.flush();  // throws if any was lost: it would have cost less
  const auto start = Clock::now();
  for (std::int64_t step = 0; step < kInARow; ++step) {
    board.scalar("loss/row", static_cast<double>(step), step);
  }
  const double added = nanoseconds_since(start) / 1e9;
  board.flush();
  const double written = nanoseconds_since(start) / 1e9;
  board.close();
  const auto bytes = std::filesystem::file_size(board.file());
  const double median = percentile(times, 0.5);
  const double most = percentile(times, 0.99);
  std::printf(
      "{\"scalar_call_p50_ns\":%.0f,\"scalar_call_p99_ns\":%.0f,\"calls\":%zu,"
      "\"million_added_s\":%.3f,\"million_written_s\":%.3f,\"bytes\":%llu}\n",
      median, most, calls, added, written, static_cast<unsigned long long>(bytes));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::size_t calls = argc > 1 ? std::stoul(argv[1]) : 200'000;
    return measure(std::max<std::size_t>(calls, kBurst),
                   argc > 2 ? argv[2] : std::filesystem::temp_directory_path());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "scalar_call: %s\n", error.what());
    return 1;
  }
}
