// SPDX-License-Identifier: BSD-3-Clause
// How far communication and copies are hidden: arithmetic on intervals, reports on activities that
// are made up, and traces as Kineto writes them on a GPU.
#include <gtest/gtest.h>
#include <lockstep/training/overlap_report.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "support/expected_errors.h"
#include "training/profiler/intervals.h"
#include "training/profiler/trace_file.h"

namespace lockstep::testing {
namespace {

using std::chrono::nanoseconds;
using training::DeviceActivity;
using training::DeviceWork;
using training::Interval;
using training::overlap_report;
using training::OverlapReport;

using Intervals = std::vector<Interval>;

TEST(IntervalArithmetic, MergesWhatOverlapsAndWhatTouches) {
  EXPECT_EQ(training::merged({}), Intervals());
  EXPECT_EQ(training::merged({{5, 5}, {7, 6}}), Intervals());
  EXPECT_EQ(training::merged({{10, 20}, {0, 5}}), (Intervals{{0, 5}, {10, 20}}));
  EXPECT_EQ(training::merged({{0, 5}, {5, 8}, {9, 10}}), (Intervals{{0, 8}, {9, 10}}));
  EXPECT_EQ(training::merged({{0, 100}, {10, 20}, {90, 110}}), (Intervals{{0, 110}}));
  EXPECT_EQ(training::merged({{-5, 3}, {-5, -1}, {3, 3}}), (Intervals{{-5, 3}}));
}

TEST(IntervalArithmetic, IntersectsPieceByPiece) {
  const Intervals a{{0, 10}, {20, 30}, {40, 50}};
  EXPECT_EQ(training::intersection(a, {}), Intervals());
  EXPECT_EQ(training::intersection({}, a), Intervals());
  EXPECT_EQ(training::intersection(a, a), a);
  EXPECT_EQ(training::intersection(a, {{10, 20}, {30, 40}}), Intervals());
  EXPECT_EQ(training::intersection(a, {{5, 45}}), (Intervals{{5, 10}, {20, 30}, {40, 45}}));
  EXPECT_EQ(training::intersection({{5, 45}}, a), (Intervals{{5, 10}, {20, 30}, {40, 45}}));
  EXPECT_EQ(training::intersection({{0, 100}}, {{1, 2}, {3, 4}, {99, 200}}),
            (Intervals{{1, 2}, {3, 4}, {99, 100}}));
  // Two that end together.
  EXPECT_EQ(training::intersection({{0, 10}, {12, 14}}, {{3, 10}, {11, 13}}),
            (Intervals{{3, 10}, {12, 13}}));
}

// Against a count of single points, on intervals that a formula draws.
TEST(IntervalArithmetic, AgreesWithCountingPoints) {
  std::uint64_t state = 7;
  const auto draw = [&](int limit) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    return static_cast<std::int64_t>((state >> 33U) % static_cast<std::uint64_t>(limit));
  };
  for (int round = 0; round < 300; ++round) {
    std::vector<bool> points[2] = {std::vector<bool>(80), std::vector<bool>(80)};
    Intervals lists[2];
    for (int list = 0; list < 2; ++list) {
      for (std::int64_t i = draw(8); i > 0; --i) {
        const std::int64_t begin = draw(70);
        const Interval one{begin, begin + draw(10)};
        lists[list].push_back(one);
        for (auto at = one.begin; at < one.end; ++at) {
          points[list][static_cast<std::size_t>(at)] = true;
        }
      }
      lists[list] = training::merged(lists[list]);
    }
    std::int64_t first = 0;
    std::int64_t both = 0;
    for (std::size_t at = 0; at < 80; ++at) {
      first += points[0][at] ? 1 : 0;
      both += points[0][at] && points[1][at] ? 1 : 0;
    }
    ASSERT_EQ(training::length_of(lists[0]), first);
    ASSERT_EQ(training::length_of(training::intersection(lists[0], lists[1])), both);
  }
}

DeviceActivity activity(DeviceWork work, int device, int stream, int begin, int end) {
  return {work, device, stream, nanoseconds(begin), nanoseconds(end)};
}

TEST(OverlapOfActivities, CountsTimeOnceAndAnyStreamOfTheDevice) {
  using enum DeviceWork;
  const auto report = overlap_report({
      activity(Compute, 0, 7, 0, 100),           // two streams compute: 0 to 140 together
      activity(Compute, 0, 9, 80, 140),          //
      activity(Communication, 0, 20, 50, 90),    // hidden
      activity(Communication, 0, 20, 130, 170),  // hidden until 140
      activity(Communication, 0, 21, 60, 80),    // at the same time as the first
      activity(Copy, 0, 13, 200, 250),           // alone
      activity(Compute, 1, 7, 200, 250),         // on another device
  });
  ASSERT_EQ(report.devices.size(), 2U);
  const OverlapReport::Row& device = report.devices[0];
  EXPECT_EQ(device.compute.count(), 140);
  EXPECT_EQ(device.communication.busy.count(), 80);
  EXPECT_EQ(device.communication.hidden.count(), 50);
  EXPECT_EQ(device.communication.fraction(), 50.0 / 80.0);
  EXPECT_EQ(device.copy.busy.count(), 50);
  EXPECT_EQ(device.copy.fraction(), 0.0);
  EXPECT_FALSE(report.devices[1].copy.fraction());
  ASSERT_EQ(report.streams.size(), 6U);
  EXPECT_EQ(report.streams[2].stream, 13);
  const OverlapReport::Row& second = report.streams[4];
  EXPECT_EQ(second.stream, 21);
  EXPECT_EQ(second.communication.busy.count(), 20);
  EXPECT_EQ(second.communication.fraction(), 1.0);
  EXPECT_EQ(report.communication.busy.count(), 80);
  EXPECT_EQ(report.copy.hidden.count(), 0);
  const std::string text = to_string(report);
  EXPECT_NE(text.find("device 0: compute 0.000 ms; communication 0.000 ms, 62.5 % hidden; copies "
                      "0.000 ms, 0.0 % hidden\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("device 1 stream 7: compute 0.000 ms; communication none; copies none\n"),
            std::string::npos)
      << text;
}

TEST(OverlapOfActivities, NothingIsAReportTooAndBackwardsIsNot) {
  const auto report = overlap_report(std::vector<DeviceActivity>());
  EXPECT_TRUE(report.devices.empty() && report.streams.empty());
  EXPECT_EQ(to_string(report), "all: communication none; copies none\n");
  expect_refusal([] { return overlap_report({activity(DeviceWork::Copy, 2, 3, 10, 9)}); },
                 "an activity of device 2, stream 3 ends 1 ns before it begins");
}

/// A file that is gone with its test.
class TraceText {
 public:
  explicit TraceText(const std::string& text)
      : path_(std::filesystem::temp_directory_path() /
              ("overlap " + std::to_string(::getpid()) + ".json")) {
    std::ofstream(path_, std::ios::binary) << text;
  }
  ~TraceText() { std::filesystem::remove(path_); }
  TraceText(const TraceText&) = delete;
  TraceText& operator=(const TraceText&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

std::string event(const std::string& category, const std::string& name, const std::string& begin,
                  const std::string& duration, int device, int stream) {
  return R"({"ph": "X", "cat": ")" + category + R"(", "name": ")" + name +
         R"(", "pid": 0, "tid": 7, "ts": )" + begin + R"(, "dur": )" + duration +
         R"(, "args": {"External id": 1, "device": )" + std::to_string(device) +
         R"(, "context": 1, "stream": )" + std::to_string(stream) +
         R"(, "grid": [1, 2, 3], "Input Dims": [[[2], []]]}})";
}

std::string trace_of(const std::vector<std::string>& events) {
  std::string text = R"({"schemaVersion": 1, "deviceProperties": [{"id": 0, "name": "a GPU"}],
    "baseTimeNanoseconds": 1000, "traceEvents": [)";
  for (std::size_t i = 0; i < events.size(); ++i) {
    text += i == 0 ? "\n" : ",\n";
    text += events[i];
  }
  text += "], \"traceName\": \"somewhere\"}";
  return text;
}

TEST(OverlapOfATrace, ReadsKernelsCopiesAndTheirStreams) {
  // Times from 1970, of which a double keeps no nanosecond.
  const TraceText trace(trace_of({
      event("cpu_op", "aten::mm", "5166837723640.000", "900.000", 0, 0),
      event("kernel", "void cutlass::gemm", "5166837723640.729", "10.000", 0, 7),
      event("gpu_memset", "Memset (Device)", "5166837723650.729", "1", 0, 7),
      event("kernel", "ncclDevKernel_AllReduce_Sum_f32_RING_LL", "5166837723645.729", "10.002", 0,
            20),
      event("gpu_memcpy", "Memcpy HtoD (Pinned -> Device)", "5166837723641.728", "2.001", 0, 13),
      event("kernel", "prefix_ncclDevKernel", "5166837723640.729", "4", 1, 7),
      R"({"ph": "i", "cat": "kernel", "name": "an instant", "ts": 1, "s": "g"})",
      R"({"name": "process_name", "ph": "M", "ts": 1.5, "args": {"name": "python"}})",
  }));
  const auto report = overlap_report(trace.path());
  ASSERT_EQ(report.devices.size(), 2U);
  EXPECT_EQ(report.devices[0].compute.count(), 11000);
  EXPECT_EQ(report.devices[0].communication.busy.count(), 10002);
  EXPECT_EQ(report.devices[0].communication.hidden.count(), 6000);
  EXPECT_EQ(report.devices[0].copy.busy.count(), 2001);
  EXPECT_EQ(report.devices[0].copy.hidden.count(), 2001);
  EXPECT_EQ(report.devices[1].compute.count(), 4000);
  EXPECT_FALSE(report.devices[1].communication.fraction());
  ASSERT_EQ(report.streams.size(), 4U);
  EXPECT_EQ(report.streams[2].stream, 20);
}

TEST(OverlapOfATrace, WithoutAGpuTheHostsSpansCount) {
  DistributedDataParallelStatistics statistics;
  const auto at = [](int moment) {
    return training::TraceSpan::Clock::time_point(std::chrono::microseconds(moment));
  };
  statistics.moments.forward_begin = at(1000);
  statistics.moments.forward_end = at(1100);
  statistics.moments.backward_begin = at(1100);
  statistics.moments.backward_end = at(1300);
  statistics.moments.first_launch = at(1150);
  statistics.moments.wait_begin = at(1300);
  statistics.moments.wait_end = at(1400);
  statistics.buckets.resize(2);
  statistics.buckets[0] = {1000, {}, at(1150), at(1200)};
  statistics.buckets[1] = {1000, {}, at(1250), at(1400)};
  training::TraceAdditions additions;
  additions.spans = training::spans_of(statistics);
  const std::string trace = training::with_additions(
      R"({"baseTimeNanoseconds": 0, "traceEvents": [)"
      R"({"ph": "X", "cat": "cpu_op", "name": "aten::add", "pid": 1, "tid": 1, "ts": 1, "dur": 2}],)"
      "\n\"traceName\": \"elsewhere\"\n}",
      additions);
  const auto report = overlap_report(TraceText(trace).path());
  ASSERT_EQ(report.devices.size(), 1U);
  EXPECT_EQ(report.devices[0].device, DeviceActivity::kHost);
  EXPECT_EQ(report.devices[0].compute, std::chrono::microseconds(300));
  EXPECT_EQ(report.communication.busy, std::chrono::microseconds(200));
  EXPECT_EQ(report.communication.hidden, std::chrono::microseconds(100));
  EXPECT_EQ(to_string(report).rfind("host: compute 0.300 ms", 0), 0U) << to_string(report);
  // A trace with kernels has no need of them.
  const auto with_kernel = trace.find("{\"ph\": \"X\", \"cat\": \"cpu_op\"");
  ASSERT_NE(with_kernel, std::string::npos);
  std::string both = trace;
  both.insert(with_kernel, event("kernel", "k", "1", "2", 0, 7) + ",");
  EXPECT_EQ(overlap_report(TraceText(both).path()).devices.front().device, 0);
}

TEST(OverlapOfATrace, RefusesWhatIsNoTrace) {
  expect_refusal([] { return overlap_report("/nowhere/trace.json"); }, "/nowhere/trace.json");
  expect_refusal([] { return overlap_report(TraceText("{\"other\": []}").path()); },
                 "no 'traceEvents'");
  expect_refusal([] { return overlap_report(TraceText("{\"traceEvents\": [").path()); }, "JSON");
  const auto timed = [](const std::string& begin, const std::string& duration) {
    return [=] {
      const TraceText trace(trace_of({event("kernel", "k", begin, duration, 0, 1)}));
      return overlap_report(trace.path());
    };
  };
  expect_refusal(timed("1e300", "1"), "microseconds as 'ts' of an event");
  expect_refusal(timed("18446744073709551615", "1"), "microseconds as 'ts' of an event");
  expect_refusal(timed("3074457345618259", "1"), "microseconds as 'ts' of an event");
  EXPECT_EQ(timed("3074457345618258", "3074457345618258.999")().devices.size(), 1U);
  EXPECT_EQ(timed("-3074457345618258", "3074457345618258")().devices.size(), 1U);
  expect_refusal(timed("1", "true"), "microseconds as 'dur' of an event");
  expect_refusal(timed("1", "-1"), "a duration of 'k'");
}

}  // namespace
}  // namespace lockstep::testing
