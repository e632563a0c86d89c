// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/util/Exception.h>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

/// Writes whole numbers and texts one after another: "12 5:hello ".
class StateTextWriter {
 public:
  explicit StateTextWriter(std::string_view begin) : text_(begin) {}

  void number(std::uint64_t value) {
    text_ += std::to_string(value);
    text_ += ' ';
  }
  void text(std::string_view value) {
    text_ += std::to_string(value.size());
    text_ += ':';
    text_ += value;
    text_ += ' ';
  }
  void numbers(const std::vector<std::size_t>& values) {
    number(values.size());
    for (const std::size_t value : values) number(value);
  }
  [[nodiscard]] const std::string& get() const noexcept { return text_; }

 private:
  std::string text_;
};

/// Reads what the writer has written, and nothing beyond its end: a count is compared with what is
/// left of the text before it costs memory. Throws: `c10::Error` naming the place.
class StateTextReader {
 public:
  StateTextReader(const std::string& text, std::string_view begin) : text_(text) {
    check(text.starts_with(begin), "is none of a DistributedDataParallel, or of another version");
    place_ = begin.size();
  }

  std::uint64_t number(char end = ' ') {
    std::uint64_t value = 0;
    const char* const first = text_.data() + place_;
    const char* const last = text_.data() + text_.size();
    const auto parsed = std::from_chars(first, last, value);
    check(parsed.ec == std::errc() && parsed.ptr != last && *parsed.ptr == end,
          "has no whole number there");
    place_ += static_cast<std::size_t>(parsed.ptr - first) + 1;
    return value;
  }
  /// A number of things that follow. Each has two characters at least.
  std::size_t count() {
    const std::uint64_t value = number();
    check(value <= (text_.size() - place_) / 2, "ends too early");
    return static_cast<std::size_t>(value);
  }
  std::string text() {
    const std::uint64_t size = number(':');
    check(size < text_.size() - place_, "ends too early");
    std::string value = text_.substr(place_, static_cast<std::size_t>(size));
    place_ += value.size();
    check(text_[place_] == ' ', "has a text of another length there");
    ++place_;
    return value;
  }
  std::vector<std::size_t> numbers() {
    std::vector<std::size_t> values(count());
    for (std::size_t& value : values) value = number();
    return values;
  }
  void check(bool is_right, const char* problem) const {
    TORCH_CHECK(is_right, "DistributedDataParallel: the state ", problem, " (at byte ", place_,
                " of ", text_.size(), ")");
  }
  void finish() const { check(place_ == text_.size(), "goes on behind its end"); }

 private:
  const std::string& text_;
  std::size_t place_ = 0;
};

}  // namespace lockstep
