// SPDX-License-Identifier: BSD-3-Clause
#include "training/profiler/trace_file.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <map>
#include <tuple>

namespace lockstep::training {
namespace {

constexpr std::string_view kBase = "\"baseTimeNanoseconds\":";
constexpr std::string_view kEvents = "\"traceEvents\": [";
constexpr std::string_view kName = "\"traceName\": ";
/// Threads of our own in the trace; Linux numbers its threads up to 2^22.
constexpr std::int64_t kFirstRow = std::int64_t{1} << 23;

void append_json(std::string& text, std::string_view value) {
  constexpr char digits[] = "0123456789abcdef";
  text += '"';
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      text += '\\';
      text += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      text += "\\u00";
      text += digits[static_cast<unsigned char>(c) >> 4U];
      text += digits[static_cast<unsigned char>(c) & 15U];
    } else {
      text += c;
    }
  }
  text += '"';
}

/// Microseconds with the fractions that nanoseconds have, as Kineto writes times.
void append_microseconds(std::string& text, std::int64_t nanoseconds) {
  if (nanoseconds < 0) text += '-';
  const std::int64_t size = nanoseconds < 0 ? -nanoseconds : nanoseconds;
  text += std::to_string(size / 1000);
  const std::string fraction = std::to_string(1000 + size % 1000);
  text += '.';
  text += fraction.substr(1);
}

/// Spans of one row that do not overlap, in their order.
struct Lane {
  std::string name;
  std::vector<const TraceSpan*> spans;
};

auto key_of(const TraceSpan& span) {
  return std::tie(span.row, span.begin, span.end, span.name, span.bytes);
}

/// Each span lies in the first lane of its row that is free. `spans`: sorted.
std::vector<Lane> lanes_of(const std::vector<TraceSpan>& spans) {
  std::vector<Lane> lanes;
  std::size_t first = 0;  // of the row
  for (std::size_t i = 0; i < spans.size(); ++i) {
    if (i > 0 && spans[i].row != spans[i - 1].row) first = lanes.size();
    std::size_t lane = first;
    while (lane < lanes.size() && lanes[lane].spans.back()->end > spans[i].begin) ++lane;
    if (lane == lanes.size()) {
      std::string name = spans[i].row;
      if (lane > first) {
        name += ' ';
        name += std::to_string(lane - first + 1);
      }
      lanes.push_back({std::move(name), {}});
    }
    lanes[lane].spans.push_back(&spans[i]);
  }
  return lanes;
}

class SpanWriter {
 public:
  SpanWriter(const TraceAdditions& additions, std::int64_t base)
      : additions_(additions), base_(base) {}

  void write(const Lane& lane) {
    write_row("thread_name", "name", lane.name);
    write_row("thread_sort_index", "sort_index", std::to_string(row_), /*is_number=*/true);
    for (const TraceSpan* span : lane.spans) write(*span);
    ++row_;
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  void begin_event() { text_ += text_.empty() ? "\n  {" : ",\n  {"; }

  void write_place() {
    text_ += ", \"pid\": ";
    text_ += std::to_string(additions_.process);
    text_ += ", \"tid\": ";
    text_ += std::to_string(row_);
  }

  void write_row(std::string_view event, std::string_view argument, const std::string& value,
                 bool is_number = false) {
    begin_event();
    text_ += "\"ph\": \"M\", \"name\": ";
    append_json(text_, event);
    write_place();
    text_ += ", \"args\": {";
    append_json(text_, argument);
    text_ += ": ";
    if (is_number) {
      text_ += value;
    } else {
      append_json(text_, value);
    }
    text_ += "}}";
  }

  void write(const TraceSpan& span) {
    begin_event();
    text_ += "\"ph\": \"X\", \"cat\": \"lockstep\", \"name\": ";
    append_json(text_, span.name);
    write_place();
    text_ += ", \"ts\": ";
    append_microseconds(text_, additions_.time_of_day.of(span.begin) - base_);
    text_ += ", \"dur\": ";
    append_microseconds(text_, std::chrono::nanoseconds(span.end - span.begin).count());
    if (span.bytes != 0) {
      text_ += ", \"args\": {\"bytes\": ";
      text_ += std::to_string(span.bytes);
      text_ += '}';
    }
    text_ += '}';
  }

  const TraceAdditions& additions_;
  std::int64_t base_;  // the trace's times count from here
  std::int64_t row_ = kFirstRow;
  std::string text_;
};

std::string distributed_info(const TraceAdditions& additions) {
  std::string text = "\n  \"distributedInfo\": {\"backend\": ";
  append_json(text, additions.backend);
  text += ", \"rank\": ";
  text += std::to_string(additions.rank);
  text += ", \"world_size\": ";
  text += std::to_string(additions.world_size);
  text += "},";
  return text;
}

/// Older versions of Kineto have none, and their times count from 1970.
std::int64_t base_of(std::string_view head) {
  const auto found = head.find(kBase);
  if (found == std::string_view::npos) return 0;
  const auto digits = std::min(head.find_first_not_of(' ', found + kBase.size()), head.size());
  std::int64_t base = 0;
  const auto parsed = std::from_chars(head.data() + digits, head.data() + head.size(), base);
  TORCH_CHECK(parsed.ec == std::errc{},
              "Profiler: Kineto's trace has a base time that is no number");
  return base;
}

/// Appends what follows the spans, with the name of the file instead of that in `tail`.
void append_tail(std::string& text, std::string_view tail, const std::string& name) {
  const auto found = tail.rfind(kName);
  const auto begin = found == std::string_view::npos ? found : found + kName.size();
  const auto end = found == std::string_view::npos ? found : tail.find('\n', begin);
  if (end == std::string_view::npos) {
    text += tail;
    return;
  }
  text += tail.substr(0, begin);
  append_json(text, name);
  text += tail.substr(end);
}

/// In their order, each once.
void sort_spans(std::vector<TraceSpan>& spans) {
  std::sort(spans.begin(), spans.end(),
            [](const TraceSpan& a, const TraceSpan& b) { return key_of(a) < key_of(b); });
  const auto last =
      std::unique(spans.begin(), spans.end(),
                  [](const TraceSpan& a, const TraceSpan& b) { return key_of(a) == key_of(b); });
  spans.erase(last, spans.end());
}

}  // namespace

std::string with_additions(std::string_view trace, TraceAdditions additions) {
  const auto brace = trace.find('{');
  const auto events = trace.find(kEvents);
  TORCH_CHECK(brace != std::string_view::npos && events != std::string_view::npos,
              "Profiler: LibTorch wrote ", trace.size(),
              " bytes that are no trace as Kineto of LibTorch 2.11 writes it: there is no "
              "'traceEvents'");
  const auto last = trace.find_last_not_of(" \n\r\t");
  TORCH_CHECK(trace[last] == '}', "Profiler: the trace that LibTorch wrote breaks off after ",
              trace.size(), " bytes; the disk may be full");
  sort_spans(additions.spans);
  SpanWriter writer(additions, base_of(trace.substr(0, events)));
  for (const Lane& lane : lanes_of(additions.spans)) writer.write(lane);

  const auto behind = events + kEvents.size();
  const auto next = trace.find_first_not_of(" \n\r\t", behind);
  const bool has_events = trace[next] != ']';
  std::string text;
  text.reserve(trace.size() + writer.text().size() + additions.name.size() + 200);
  text += trace.substr(0, brace + 1);
  text += distributed_info(additions);
  text += trace.substr(brace + 1, behind - brace - 1);
  text += writer.text();
  if (has_events && !writer.text().empty()) text += ',';
  append_tail(text, trace.substr(behind), additions.name);
  return text;
}

}  // namespace lockstep::training
