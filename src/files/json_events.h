// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace lockstep::files {

/// Where in the text a value stands.
struct JsonPlace {
  std::span<const std::string> names;  ///< of the objects around it, the outermost first
  int arrays = 0;  ///< how many arrays there are between it and the last of these names

  /// "'model' / 'shape'", for messages.
  [[nodiscard]] std::string text() const;
};

/// What is told about each value, in the order of the text. All of these may throw.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual void on_object(const JsonPlace& /*place*/) {}
  virtual void on_array(const JsonPlace& /*place*/) {}
  /// `value` may be taken.
  virtual void on_string(const JsonPlace& place, std::string& value) = 0;
  /// A number from 0 to 2^64 - 1 without fraction and exponent; it loses no digit.
  virtual void on_count(const JsonPlace& place, std::uint64_t value) = 0;
  /// Any other: "null", "true", "-1", "0.5".
  virtual void on_other(const JsonPlace& place, const std::string& text) = 0;
};

struct JsonLimits {
  std::size_t depth = 8;            ///< of objects and arrays in each other
  std::size_t name_bytes = 4096;    ///< of each name in an object
  std::size_t values = 16'000'000;  ///< all together
  std::size_t names = 1'000'000;    ///< in one object
};

using JsonFail = std::function<void(const std::string& expected, const std::string& found)>;

/// Reads JSON from outside: UTF-8, one value, blanks alone behind it. A name that appears twice in
/// an object is an error, because readers disagree on which of the two counts. The memory that it
/// takes is bounded by that of `text`. `fail` reports what is wrong, and throws.
void read_json(std::string_view text, const JsonLimits& limits, JsonEvents& events,
               const JsonFail& fail);

/// The text as JSON writes it, in quotes. Characters outside of ASCII stay as they are.
/// Throws: `c10::Error` where it is no UTF-8.
[[nodiscard]] std::string json_string(std::string_view text);
/// The same for any bytes: what is no UTF-8 is replaced. For messages.
[[nodiscard]] std::string json_text(std::string_view bytes);

}  // namespace lockstep::files
