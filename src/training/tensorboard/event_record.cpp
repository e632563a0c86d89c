// SPDX-License-Identifier: BSD-3-Clause
#include "training/tensorboard/event_record.h"

#include <cmath>
#include <limits>
#include <variant>

#include "training/tensorboard/crc32c.h"

namespace lockstep::training {
namespace {

using namespace proto;  // NOLINT(google-build-using-namespace): its names stand on every line here

constexpr std::string_view kFileVersion = "brain.Event:2";
// Of the file's format, not of this program: readers know this one.
constexpr std::string_view kWriter = "tensorboard.summary.writer.event_file_writer";
constexpr std::size_t kRecordHead = 12;

// Numbers of fields.
namespace event {
constexpr std::uint32_t kWallTime = 1, kStep = 2, kFileVersionField = 3, kSummary = 5,
                        kSessionLog = 7, kSourceMetadata = 10;
}
namespace summary_value {
constexpr std::uint32_t kTag = 1, kSimpleValue = 2, kImage = 4, kHistogram = 5, kTensor = 8,
                        kMetadata = 9;
}

std::span<const std::byte> part(const char* data, std::size_t bytes) {
  return std::as_bytes(std::span(data, bytes));
}

void store(char* at, std::uint64_t word, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) at[i] = static_cast<char>(word >> (8 * i));
}

/// Makes a record of what is put between the construction and `end`.
template <typename Out>
class Record {
 public:
  Record(Out& out, EventTime time) : out_(out), begin_(out.size()) {
    static constexpr char kRoom[kRecordHead] = {};
    out.append(kRoom, kRecordHead);
    put_double(out, event::kWallTime, time.seconds);
    put_number(out, event::kStep, time.step);
  }
  void end() {
    const std::size_t bytes = out_.size() - begin_ - kRecordHead;
    char* head = out_.data() + begin_;
    store(head, bytes, 8);
    store(head + 8, masked_crc32c(part(head, 8)), 4);
    put_word(out_, masked_crc32c(part(head + kRecordHead, bytes)));
  }

 private:
  Out& out_;
  std::size_t begin_;
};

/// An event with a summary of one value.
template <typename Out>
void put_value(Out& out, EventTime time, std::string_view tag, std::string_view rest) {
  Record record(out, time);
  const std::size_t value_bytes = field_bytes(tag.size()) + rest.size();
  put_head(out, event::kSummary, field_bytes(value_bytes));
  put_head(out, 1, value_bytes);
  put_bytes(out, summary_value::kTag, tag);
  out.append(rest.data(), rest.size());
  record.end();
}

std::string message(std::uint32_t field, std::string_view bytes) {
  std::string text;
  put_bytes(text, field, bytes);
  return text;
}

std::string plugin(std::string_view name, std::string_view content) {
  std::string data;
  put_bytes(data, 1, name);
  if (!content.empty()) put_bytes(data, 2, content);
  return message(summary_value::kMetadata, message(1, data));
}

template <typename Out>
void put_scalar(Out& out, EventTime time, std::string_view tag, double value, bool is_double) {
  SmallBuffer<64> rest;
  if (is_double) {
    // A tensor of type double and one value, in packed form; and the plugin's name.
    static constexpr std::string_view kScalars = "scalars";
    put_head(rest, summary_value::kTensor, 12);
    put_number(rest, 1, 2);
    put_head(rest, 6, 8);
    put_word(rest, std::bit_cast<std::uint64_t>(value));
    put_head(rest, summary_value::kMetadata, field_bytes(field_bytes(kScalars.size())));
    put_head(rest, 1, field_bytes(kScalars.size()));
    put_bytes(rest, 1, kScalars);
  } else {
    // A double beyond the range of a float is infinite there; to convert it would be undefined.
    constexpr double kMost = std::numeric_limits<float>::max();
    const bool is_beyond = std::isfinite(value) && std::abs(value) > kMost;
    const double fitting = is_beyond ? std::copysign(HUGE_VAL, value) : value;
    put_float(rest, summary_value::kSimpleValue, static_cast<float>(fitting));
  }
  put_value(out, time, tag, {rest.data(), rest.size()});
}

void put_packed(std::string& out, std::uint32_t field, const std::vector<double>& values) {
  put_head(out, field, values.size() * sizeof(double));
  for (const double value : values) put_word(out, std::bit_cast<std::uint64_t>(value));
}

void put_hparams_event(std::string& out, EventTime time, std::string_view tag, std::uint32_t field,
                       std::string_view content) {
  put_value(out, time, tag, plugin("hparams", message(field, content)));
}

/// A `google.protobuf.Value`.
std::string value_message(const HyperparameterValue& value) {
  std::string text;
  if (const auto* number = std::get_if<double>(&value.get())) {
    put_double(text, 2, *number);
  } else if (const auto* words = std::get_if<std::string>(&value.get())) {
    put_bytes(text, 3, *words);
  } else {
    put_key(text, 4, Wire::Varint);
    put_varint(text, std::get<bool>(value.get()) ? 1 : 0);
  }
  return text;
}

int type_of(const HyperparameterValue& value) {
  if (std::holds_alternative<std::string>(value.get())) return 1;
  return std::holds_alternative<bool>(value.get()) ? 2 : 3;
}

}  // namespace

void put_version_event(std::string& out, double seconds) {
  Record record(out, {seconds, 0});
  put_bytes(out, event::kFileVersionField, kFileVersion);
  put_bytes(out, event::kSourceMetadata, message(1, kWriter));
  record.end();
}

void put_resume_events(std::string& out, EventTime time) {
  Record version(out, time);
  put_bytes(out, event::kFileVersionField, kFileVersion);
  version.end();
  Record start(out, time);
  std::string status;
  put_number(status, 1, 1);
  put_bytes(out, event::kSessionLog, status);
  start.end();
}

void put_scalar_event(ScalarBuffer& out, EventTime time, std::string_view tag, double value,
                      bool is_double) {
  put_scalar(out, time, tag, value, is_double);
}

void put_scalar_event(std::string& out, EventTime time, std::string_view tag, double value,
                      bool is_double) {
  put_scalar(out, time, tag, value, is_double);
}

void put_histogram_event(std::string& out, EventTime time, std::string_view tag,
                         const HistogramValues& values) {
  std::string histogram;
  put_nonzero_double(histogram, 1, values.min);
  put_nonzero_double(histogram, 2, values.max);
  put_nonzero_double(histogram, 3, static_cast<double>(values.count));
  put_nonzero_double(histogram, 4, values.sum);
  put_nonzero_double(histogram, 5, values.sum_squares);
  put_packed(histogram, 6, values.limits);
  put_packed(histogram, 7, values.counts);
  put_value(out, time, tag, message(summary_value::kHistogram, histogram));
}

void put_image_event(std::string& out, EventTime time, std::string_view tag,
                     const ImageValue& image) {
  std::string content;
  content.reserve(image.png.size() + 64);
  put_number(content, 1, image.height);
  put_number(content, 2, image.width);
  put_number(content, 3, image.channels);
  put_bytes(content, 4, image.png);
  put_value(out, time, tag, message(summary_value::kImage, content));
}

void put_text_event(std::string& out, EventTime time, std::string_view tag, std::string_view text) {
  std::string full_tag(tag);
  full_tag += "/text_summary";
  std::string size;
  put_number(size, 1, 1);
  std::string tensor;
  put_number(tensor, 1, 7);  // of strings
  put_bytes(tensor, 2, message(2, size));
  put_bytes(tensor, 8, text);
  std::string rest = message(summary_value::kTensor, tensor);
  rest += plugin("text", "");
  put_value(out, time, full_tag, rest);
}

void put_hyperparameter_events(std::string& out, EventTime time, const Hyperparameters& values,
                               const std::vector<std::string>& metrics) {
  std::string experiment;
  std::string start;
  for (const auto& [name, value] : values) {
    std::string about;
    put_bytes(about, 1, name);
    put_number(about, 4, type_of(value));
    put_bytes(experiment, 4, about);
    std::string entry;
    put_bytes(entry, 1, name);
    put_bytes(entry, 2, value_message(value));
    put_bytes(start, 1, entry);
  }
  for (const auto& tag : metrics) put_bytes(experiment, 5, message(1, message(2, tag)));
  put_hparams_event(out, time, "_hparams_/experiment", 2, experiment);
  put_hparams_event(out, time, "_hparams_/session_start_info", 3, start);
}

void put_session_end_event(std::string& out, EventTime time, bool is_success) {
  std::string status;
  put_number(status, 1, is_success ? 1 : 2);
  put_hparams_event(out, time, "_hparams_/session_end_info", 4, status);
}

}  // namespace lockstep::training
