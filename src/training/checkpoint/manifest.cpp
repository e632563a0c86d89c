// SPDX-License-Identifier: BSD-3-Clause
#include "training/checkpoint/manifest.h"

#include <c10/util/Exception.h>

#include <array>
#include <bit>
#include <charconv>
#include <cstdio>
#include <span>
#include <utility>

#include "files/bounded_view.h"
#include "files/json_events.h"

namespace lockstep::training {
namespace {

constexpr std::size_t kCrcDigits = 8;

std::string crc_of(std::string_view text) {
  std::array<char, kCrcDigits + 1> digits{};
  std::snprintf(digits.data(), digits.size(), "%08x",
                files::crc32_of(std::as_bytes(std::span(text))));
  return digits.data();
}

/// Whatever is not of the format counts as no line.
class RecordEvents final : public files::JsonEvents {
 public:
  [[nodiscard]] CheckpointRecord take() { return std::move(record_); }

  void on_string(const files::JsonPlace& place, std::string& value) override {
    const auto& names = place.names;
    if (names.size() == 1 && names[0] == "failure") record_.failure = std::move(value);
    if (names.size() == 1 && names[0] == "run") record_.run = std::move(value);
    if (names.size() == 1 && names[0] == "plan") record_.plan = std::move(value);
    if (names.size() == 3 && names[0] == "files" && names[2] == "xxh3") {
      record_.files[names[1]].xxh3 = std::move(value);
    }
  }
  void on_count(const files::JsonPlace& place, std::uint64_t value) override {
    const auto& names = place.names;
    const auto number = static_cast<std::int64_t>(value);
    if (names.size() == 1 && names[0] == "generation") record_.generation = number;
    if (names.size() == 1 && names[0] == "step") record_.step = number;
    if (names.size() == 1 && names[0] == "world_size") record_.world_size = number;
    if (names.size() == 1 && names[0] == "metric_bits")
      record_.metric = std::bit_cast<double>(value);
    if (names.size() == 3 && names[0] == "files" && names[2] == "bytes") {
      record_.files[names[1]].bytes = value;
    }
  }
  void on_other(const files::JsonPlace&, const std::string&) override {}

 private:
  CheckpointRecord record_;
};

}  // namespace

std::string CheckpointRecord::to_line() const {
  std::string text;
  const auto add = [&](const char* between, const std::string& json) {
    text += between;
    text += json;
  };
  add(R"({"run":)", files::json_string(run));
  add(R"(,"generation":)", std::to_string(generation));
  add(R"(,"step":)", std::to_string(step));
  add(R"(,"world_size":)", std::to_string(world_size));
  if (!plan.empty()) add(R"(,"plan":)", files::json_string(plan));
  if (metric) {
    std::array<char, 32> digits{};
    std::snprintf(digits.data(), digits.size(), "%.6g", *metric);
    add(R"(,"metric":)", files::json_string(digits.data()));
    add(R"(,"metric_bits":)", std::to_string(std::bit_cast<std::uint64_t>(*metric)));
  }
  if (!failure.empty()) add(R"(,"failure":)", files::json_text(failure));
  text += R"(,"files":{)";
  const char* separator = "";
  for (const auto& [name, digest] : this->files) {
    add(separator, files::json_string(name));
    add(R"(:{"bytes":)", std::to_string(digest.bytes));
    add(R"(,"xxh3":)", files::json_string(digest.xxh3));
    text += '}';
    separator = ",";
  }
  text += "}}";
  return crc_of(text) + ' ' + text;
}

std::optional<CheckpointRecord> CheckpointRecord::from_line(std::string_view line) {
  if (line.size() <= kCrcDigits + 1 || line[kCrcDigits] != ' ') return std::nullopt;
  const std::string_view text = line.substr(kCrcDigits + 1);
  if (line.substr(0, kCrcDigits) != crc_of(text)) return std::nullopt;
  try {
    RecordEvents events;
    files::read_json(text, {}, events, [](const std::string& expected, const std::string& found) {
      TORCH_CHECK(false, "expected ", expected, ", found ", found);
    });
    return events.take();
  } catch (const c10::Error&) {
    return std::nullopt;
  }
}

std::vector<CheckpointRecord> parse_manifest(std::string_view text) {
  std::vector<CheckpointRecord> records;
  while (!text.empty()) {
    const auto end = text.find('\n');
    if (end == std::string_view::npos) break;  // cut, or being written
    if (auto record = CheckpointRecord::from_line(text.substr(0, end))) {
      records.push_back(std::move(*record));
    }
    text.remove_prefix(end + 1);
  }
  return records;
}

}  // namespace lockstep::training
