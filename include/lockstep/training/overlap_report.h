// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/core/export.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace lockstep::training {

/// What a device does in a piece of time.
enum class DeviceWork : std::uint8_t {
  Compute,        ///< kernels of the program, and memory that is set
  Communication,  ///< kernels whose name begins with `nccl`
  Copy,           ///< copies to, from and inside the device
};

/// One kernel or copy of a trace.
///
/// Thread-safety: a value.
struct DeviceActivity {
  /// The device of what the host measured: see `overlap_report`.
  static constexpr int kHost = -1;

  DeviceWork work = DeviceWork::Compute;  ///< see there
  int device = 0;                         ///< its number
  int stream = 0;                         ///< its number on the device, as Kineto numbers streams
  std::chrono::nanoseconds begin{0};      ///< by the trace's clock
  std::chrono::nanoseconds end{0};        ///< not before `begin`
};

/// How much of a kind of work ran while the same device also computed.
///
/// Thread-safety: a value.
struct Overlap {
  std::chrono::nanoseconds busy{0};    ///< time in which at least one piece of it ran
  std::chrono::nanoseconds hidden{0};  ///< the part of `busy` in which the device also computed
  /// `hidden / busy`, from 0 to 1; nothing where there was no such work.
  [[nodiscard]] LOCKSTEP_API std::optional<double> fraction() const;
};

/// How far communication and copies of a device were hidden behind its computation. Time in which
/// several pieces of one kind ran counts once.
///
/// Thread-safety: a value.
struct OverlapReport {
  /// A device, or one of its streams.
  struct Row {
    int device = 0;                       ///< its number; `DeviceActivity::kHost`: the host's row
    std::optional<int> stream;            ///< nothing: all streams of the device
    std::chrono::nanoseconds compute{0};  ///< time in which it computed
    /// Communication there, hidden behind computation on any stream of the device.
    Overlap communication{};
    /// Copies there, hidden likewise.
    Overlap copy{};
  };

  std::vector<Row> devices;  ///< by number
  std::vector<Row> streams;  ///< by device and number
  Overlap communication{};   ///< sums over all devices; without the host's row, if there are others
  Overlap copy{};            ///< likewise
};

/// The report on these activities, in any order.
/// Thread-safety: any thread.
/// Throws: `c10::Error` for an activity that ends before it begins.
[[nodiscard]] LOCKSTEP_API OverlapReport
overlap_report(const std::vector<DeviceActivity>& activities);

/// The report on a trace that a `Profiler` or Python's `torch.profiler` has saved, as plain JSON.
///
/// A trace without a GPU has no kernels. What `Profiler::add` has put there is used for the row of
/// the host then: buckets under way are communication, forward and backward are computation. These
/// are times at which the host knew of something, so the row is an estimate.
/// Blocks: reads the file.
/// Thread-safety: any thread.
/// Throws: `c10::Error` naming the file where it cannot be read or is no such trace.
[[nodiscard]] LOCKSTEP_API OverlapReport overlap_report(const std::filesystem::path& trace);

/// A line for each device and each stream, and one for the sums.
/// Thread-safety: any thread.
[[nodiscard]] LOCKSTEP_API std::string to_string(const OverlapReport& report);

}  // namespace lockstep::training
