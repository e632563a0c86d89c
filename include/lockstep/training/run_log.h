// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>
#include <lockstep/training/background_writer.h>
#include <lockstep/training/checkpointer.h>

#include <concepts>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lockstep::training {

/// A value of a line of a run log: a number, or a text.
///
/// Thread-safety: a value.
class LOCKSTEP_API RunValue {
 public:
  /// In the fewest digits that give the same double again. What is no finite number is one of the
  /// texts "NaN", "Infinity" and "-Infinity".
  template <std::floating_point T>
  RunValue(T value) : json_(json_of(static_cast<double>(value))) {}
  /// All of its digits.
  template <std::integral T>
  RunValue(T value) : json_(std::to_string(value)) {}
  /// `true` or `false`.
  RunValue(bool value) : json_(value ? "true" : "false") {}
  /// Throws: `c10::Error` for what is no UTF-8.
  RunValue(const std::string& text) : json_(json_of(std::string_view(text))) {}
  /// Throws: likewise.
  RunValue(const char* text) : json_(json_of(std::string_view(text))) {}

  /// The value as JSON has it.
  [[nodiscard]] const std::string& json() const noexcept { return json_; }

 private:
  static std::string json_of(double value);
  static std::string json_of(std::string_view text);
  std::string json_;
};

/// Names and values of a line.
using RunValues = std::vector<std::pair<std::string, RunValue>>;

/// `saves`, `failures`, `bytes`, `stall_seconds` and `writing_seconds`.
[[nodiscard]] LOCKSTEP_API RunValues run_values(const CheckpointerStatistics& statistics);

namespace detail {

/// As `data::LoaderStatistics`, of which this layer knows nothing.
template <class T>
concept LoaderFigures = requires(const T& figures) {
  figures.stall_seconds;
  figures.ready_depth;
  { figures.bottleneck() } -> std::convertible_to<std::string>;
};

/// As `DistributedDataParallelStatistics`, likewise.
template <class T>
concept BackwardFigures = requires(const T& figures) {
  figures.steps;
  { figures.total.forward.count() } -> std::convertible_to<double>;
  { figures.total.exposed.count() } -> std::convertible_to<double>;
  figures.buckets.size();
};

}  // namespace detail

/// `batches`, `samples`, `seconds`, `stall_seconds`, `ready_depth`, `busy_seconds`,
/// `compute_seconds`, `idle_seconds`, `lost_batches`, `skipped_samples`, `replaced_samples`,
/// `restarts` and `bottleneck` of `DataLoader::statistics()`.
template <detail::LoaderFigures Statistics>
[[nodiscard]] RunValues run_values(const Statistics& statistics) {
  return {{"batches", statistics.batches},
          {"samples", statistics.samples},
          {"seconds", statistics.seconds},
          {"stall_seconds", statistics.stall_seconds},
          {"ready_depth", statistics.ready_depth},
          {"busy_seconds", statistics.busy_seconds},
          {"compute_seconds", statistics.compute_seconds},
          {"idle_seconds", statistics.idle_seconds},
          {"lost_batches", statistics.lost_batches},
          {"skipped_samples", statistics.skipped_samples},
          {"replaced_samples", statistics.replaced_samples},
          {"restarts", statistics.restarts},
          {"bottleneck", statistics.bottleneck()}};
}

/// `steps`, `forward_seconds`, `backward_seconds`, `communication_seconds`, `exposed_seconds`,
/// `buckets`, `copied_bytes` and `link` of `DistributedDataParallel::statistics()`. Seconds are of
/// all steps so far.
template <detail::BackwardFigures Statistics>
[[nodiscard]] RunValues run_values(const Statistics& statistics) {
  const auto& total = statistics.total;
  return {{"steps", statistics.steps},
          {"forward_seconds", total.forward.count()},
          {"backward_seconds", total.backward.count()},
          {"communication_seconds", total.communication.count()},
          {"exposed_seconds", total.exposed.count()},
          {"buckets", statistics.buckets.size()},
          {"copied_bytes", statistics.copied_bytes},
          {"link", statistics.link}};
}

/// Writes what a run measures, as lines of JSON in a file of this rank:
///
///     {"t":1764457387.25,"step":10,"rank":0,"loss":0.31}
///
/// `t` is the time in seconds since 1970. A `BackgroundWriter` writes the lines, so that training
/// waits for no disk; its options say how large a file becomes before it is rotated.
/// `lockstep-report` makes a page of the folder with these files, and `tools/run_log.py` reads them
/// in Python. A process that is killed leaves whole lines, of which the last may be cut.
///
///     lockstep::training::RunLog log(writer, "run/rank0.jsonl", group->rank());
///     log.write(step, {{"train/loss", loss}, {"lr", 0.1}});
///     log.write_statistics(step, "ddp", model->statistics());
///     log.write_statistics(step, "loader", loader.statistics());
///     log.write_statistics(step, "checkpoints", checkpointer.statistics());
///
/// Thread-safety: all members may be called by several threads.
/// Owns: a share of the writer.
class LOCKSTEP_API RunLog {
 public:
  /// The folder of the file is made where there is none. A file that is there goes on.
  /// Throws: `c10::Error` for no writer, an empty path, a name that does not end in `.jsonl`, a
  /// negative rank, and a folder that cannot be made.
  RunLog(std::shared_ptr<BackgroundWriter> writer, const std::filesystem::path& path, int rank = 0);

  /// Writes a line. Returns whether the writer took it; what it did not take is counted in the
  /// file.
  /// Blocks: as `BackgroundWriter::append`.
  /// Throws: `c10::Error` for a name that is empty, no UTF-8, twice there, or one of `t`, `step`,
  /// `rank`, `time` and `lockstep`.
  bool write(std::int64_t step,
             std::initializer_list<std::pair<std::string_view, RunValue>> values);
  /// The same for what `MetricSet::compute` returns.
  bool write(std::int64_t step, const std::map<std::string, double>& values);
  /// The same for names `prefix/name`; as they are for an empty prefix.
  bool write(std::int64_t step, std::string_view prefix, const RunValues& values);
  /// `statistics()` of a `DistributedDataParallel`, a `DataLoader` or a `Checkpointer`.
  /// `lockstep-report` expects them under the prefixes "ddp", "loader" and "checkpoints", which
  /// further words may follow: "loader of tests".
  template <class Statistics>
  bool write_statistics(std::int64_t step, std::string_view prefix, const Statistics& statistics) {
    static_assert(
        requires { run_values(statistics); },
        "RunLog::write_statistics takes statistics() of a DistributedDataParallel, a DataLoader or "
        "a Checkpointer; write other values by write(step, {{name, value}})");
    return write(step, prefix, run_values(statistics));
  }

 private:
  bool write_line(std::int64_t step,
                  const std::vector<std::pair<std::string_view, const RunValue*>>& values,
                  std::string_view prefix);

  std::shared_ptr<BackgroundWriter> writer_;
  std::filesystem::path path_;
  int rank_;
};

}  // namespace lockstep::training
