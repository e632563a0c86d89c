// SPDX-License-Identifier: BSD-3-Clause
// The activities of a device in a trace file.
#include <lockstep/training/overlap_report.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "files/bounded_file.h"
#include "files/json_events.h"

namespace lockstep::training {
namespace {

using std::chrono::nanoseconds;

constexpr char kTraceEvents[] = "traceEvents";
/// Shapes of operators' inputs are lists in lists.
constexpr files::JsonLimits kTraceLimits{
    .depth = 32, .name_bytes = 4096, .values = 1'000'000'000, .names = 1'000'000};

/// Microseconds as Kineto writes them, with at most three digits of a fraction. A `double` would
/// lose nanoseconds of a time that counts from 1970.
std::optional<nanoseconds> parse_microseconds(std::string_view text) {
  const bool is_negative = text.starts_with('-');
  if (is_negative) text.remove_prefix(1);
  const auto point = std::min(text.find('.'), text.size());
  std::int64_t whole = 0;
  const char* const end = text.data() + point;
  const auto parsed = std::from_chars(text.data(), end, whole);
  // A begin, a duration and a distance between such moments fit into the type: till the year 2067.
  constexpr std::int64_t kMost = INT64_MAX / 3000;
  if (parsed.ec != std::errc{} || parsed.ptr != end || whole < 0 || whole > kMost) return {};
  std::int64_t fraction = 0;
  std::int64_t unit = 100;
  for (std::size_t i = point + 1; i < text.size(); ++i, unit /= 10) {
    if (text[i] < '0' || text[i] > '9') return {};
    fraction += unit * (text[i] - '0');
  }
  const std::int64_t sum = whole * 1000 + fraction;
  return nanoseconds(is_negative ? -sum : sum);
}

/// What one event of a trace says, as far as it matters here.
struct TraceEvent {
  std::string phase, category, name;
  std::optional<nanoseconds> begin, duration;
  int device = 0;
  int stream = 0;
};

class TraceReader final : public files::JsonEvents {
 public:
  explicit TraceReader(const files::BoundedFile& file) : file_(file) {}

  void on_array(const files::JsonPlace& place) override {
    if (place.arrays == 0 && place.names.size() == 1 && place.names[0] == kTraceEvents) {
      has_events_ = true;
    }
  }
  void on_object(const files::JsonPlace& place) override {
    if (place.arrays == 1 && place.names.size() == 1 && place.names[0] == kTraceEvents) flush();
  }
  void on_string(const files::JsonPlace& place, std::string& value) override {
    if (!is_field(place)) return;
    if (place.names[1] == "ph") event_.phase = std::move(value);
    if (place.names[1] == "cat") event_.category = std::move(value);
    if (place.names[1] == "name") event_.name = std::move(value);
  }
  void on_count(const files::JsonPlace& place, std::uint64_t value) override {
    if (is_field(place)) return note_time(place.names[1], std::to_string(value));
    if (place.names.size() != 3 || place.names[0] != kTraceEvents || place.names[1] != "args") {
      return;
    }
    const int number = value > 1'000'000 ? 1'000'000 : static_cast<int>(value);
    if (place.names[2] == "device") event_.device = number;
    if (place.names[2] == "stream") event_.stream = number;
  }
  void on_other(const files::JsonPlace& place, const std::string& text) override {
    if (is_field(place)) note_time(place.names[1], text);
  }

  std::vector<DeviceActivity> take() {
    flush();
    if (!has_events_) file_.fail(0, "a trace as Kineto writes it", "no 'traceEvents'");
    return activities_.empty() ? std::move(of_host_) : std::move(activities_);
  }

 private:
  static bool is_field(const files::JsonPlace& place) {
    return place.arrays == 0 && place.names.size() == 2 && place.names[0] == kTraceEvents;
  }
  void note_time(const std::string& name, const std::string& text) {
    if (name != "ts" && name != "dur") return;
    const auto time = parse_microseconds(text);
    if (!time) file_.fail(0, "microseconds as '" + name + "' of an event", text);
    (name == "ts" ? event_.begin : event_.duration) = time;
  }

  /// The event that was read is complete.
  void flush() {
    const TraceEvent event = std::exchange(event_, {});
    if (event.phase != "X" || !event.begin || !event.duration) return;
    if (event.category == "lockstep") return add_of_host(event);
    const bool is_kernel = event.category == "kernel";
    const bool is_copy = event.category == "gpu_memcpy";
    if (!is_kernel && !is_copy && event.category != "gpu_memset") return;
    auto work = is_copy ? DeviceWork::Copy : DeviceWork::Compute;
    if (is_kernel && event.name.starts_with("nccl")) work = DeviceWork::Communication;
    add(activities_, event, work, event.device, event.stream);
  }
  /// The names are those of `spans_of`.
  void add_of_host(const TraceEvent& event) {
    const bool is_bucket = event.name.starts_with("bucket ");
    if (!is_bucket && event.name != "forward" && event.name != "backward") return;
    add(of_host_, event, is_bucket ? DeviceWork::Communication : DeviceWork::Compute,
        DeviceActivity::kHost, is_bucket ? 1 : 0);
  }
  void add(std::vector<DeviceActivity>& list, const TraceEvent& event, DeviceWork work, int device,
           int stream) {
    if (event.duration->count() < 0) {
      file_.fail(0, "a duration of '" + event.name + "'",
                 std::to_string(event.duration->count()) + " ns");
    }
    list.push_back({work, device, stream, *event.begin, *event.begin + *event.duration});
  }

  const files::BoundedFile& file_;
  bool has_events_ = false;
  TraceEvent event_;
  std::vector<DeviceActivity> activities_;
  std::vector<DeviceActivity> of_host_;
};

}  // namespace

OverlapReport overlap_report(const std::filesystem::path& trace) {
  const files::BoundedFile file(trace.string());
  const std::string text = file.text(0, file.size(), "a trace");
  TraceReader reader(file);
  files::read_json(text, kTraceLimits, reader,
                   [&](const std::string& expected, const std::string& found) {
                     file.fail(0, expected, found);
                   });
  return overlap_report(reader.take());
}

}  // namespace lockstep::training
