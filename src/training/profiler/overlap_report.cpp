// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/training/overlap_report.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <map>
#include <utility>

#include "training/profiler/intervals.h"

namespace lockstep::training {
namespace {

constexpr std::size_t kKinds = 3;

/// The pieces of each kind of work in one place.
struct WorkTimes {
  std::array<std::vector<Interval>, kKinds> of;

  [[nodiscard]] std::vector<Interval>& operator[](DeviceWork work) {
    return of[static_cast<std::size_t>(work)];
  }
  void merge() {
    for (auto& intervals : of) intervals = merged(std::move(intervals));
  }
};

Overlap overlap_of(const std::vector<Interval>& work, const std::vector<Interval>& compute) {
  return {std::chrono::nanoseconds(length_of(work)),
          std::chrono::nanoseconds(length_of(intersection(work, compute)))};
}

/// `compute`: of the whole device.
OverlapReport::Row row_of(int device, std::optional<int> stream, WorkTimes& times,
                          const std::vector<Interval>& compute) {
  return {device, stream, std::chrono::nanoseconds(length_of(times[DeviceWork::Compute])),
          overlap_of(times[DeviceWork::Communication], compute),
          overlap_of(times[DeviceWork::Copy], compute)};
}

void add(Overlap& sum, const Overlap& part) {
  const auto increase = [](std::chrono::nanoseconds& time, std::chrono::nanoseconds more) {
    time += std::min(more, std::chrono::nanoseconds::max() - time);
  };
  increase(sum.busy, part.busy);
  increase(sum.hidden, part.hidden);
}

std::string milliseconds_text(std::chrono::nanoseconds time) {
  char text[48];
  std::snprintf(text, sizeof(text), "%.3f ms", static_cast<double>(time.count()) * 1e-6);
  return text;
}

std::string text_of(const Overlap& overlap) {
  const auto fraction = overlap.fraction();
  if (!fraction) return "none";
  char percent[32];
  std::snprintf(percent, sizeof(percent), "%.1f %%", 100 * *fraction);
  std::string text = milliseconds_text(overlap.busy);
  text += ", ";
  text += percent;
  text += " hidden";
  return text;
}

std::string text_of(const OverlapReport::Row& row) {
  std::string text =
      row.device == DeviceActivity::kHost ? "host" : "device " + std::to_string(row.device);
  if (row.stream) {
    text += " stream ";
    text += std::to_string(*row.stream);
  }
  text += ": compute ";
  text += milliseconds_text(row.compute);
  text += "; communication ";
  text += text_of(row.communication);
  text += "; copies ";
  text += text_of(row.copy);
  text += '\n';
  return text;
}

}  // namespace

std::optional<double> Overlap::fraction() const {
  if (busy.count() == 0) return std::nullopt;
  return static_cast<double>(hidden.count()) / static_cast<double>(busy.count());
}

OverlapReport overlap_report(const std::vector<DeviceActivity>& activities) {
  std::map<int, WorkTimes> devices;
  std::map<std::pair<int, int>, WorkTimes> streams;
  for (const DeviceActivity& one : activities) {
    TORCH_CHECK(one.begin <= one.end, "overlap_report: an activity of device ", one.device,
                ", stream ", one.stream, " ends ", (one.begin - one.end).count(),
                " ns before it begins");
    const Interval time{one.begin.count(), one.end.count()};
    devices[one.device][one.work].push_back(time);
    streams[{one.device, one.stream}][one.work].push_back(time);
  }
  OverlapReport report;
  for (auto& [device, times] : devices) {
    times.merge();
    report.devices.push_back(row_of(device, std::nullopt, times, times[DeviceWork::Compute]));
    if (device == DeviceActivity::kHost && devices.size() > 1) continue;
    add(report.communication, report.devices.back().communication);
    add(report.copy, report.devices.back().copy);
  }
  for (auto& [place, times] : streams) {
    times.merge();
    report.streams.push_back(
        row_of(place.first, place.second, times, devices[place.first][DeviceWork::Compute]));
  }
  return report;
}

std::string to_string(const OverlapReport& report) {
  std::string text;
  for (const auto& row : report.devices) text += text_of(row);
  for (const auto& row : report.streams) text += text_of(row);
  text += "all: communication ";
  text += text_of(report.communication);
  text += "; copies ";
  text += text_of(report.copy);
  text += '\n';
  return text;
}

}  // namespace lockstep::training
