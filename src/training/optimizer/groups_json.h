// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "files/json_events.h"
#include "files/json_number.h"

namespace lockstep::training {

/// Writes one group of `param_groups`.
class GroupWriter {
 public:
  void operator()(const char* name, double value) { add(name, files::json_number(value)); }
  void operator()(const char* name, bool value) { add(name, value ? "true" : "false"); }
  void operator()(const char* name, std::int64_t value) { add(name, std::to_string(value)); }
  void operator()(const char* name, const std::tuple<double, double>& value) {
    (*this)(name, std::array{std::get<0>(value), std::get<1>(value)});
  }
  void operator()(const char* name, std::span<const double> values);
  void operator()(const char* name, const std::optional<std::int64_t>& value) {
    add(name, value ? std::to_string(*value) : "null");
  }
  void operator()(const char* name, const std::optional<double>& value) {
    add(name, value ? files::json_number(*value) : "null");
  }
  void operator()(const char* name, const std::optional<std::string>& value) {
    add(name, value ? files::json_string(*value) : "null");
  }

  /// `python_only`: more fields as they stand.
  [[nodiscard]] std::string object(const std::vector<std::string>& params,
                                   const std::string& python_only) const;

 private:
  void add(const char* name, const std::string& json);

  std::string fields_;
};

/// One group as it was read. Each value is its text in JSON; that of an array has several.
struct GroupJson {
  std::map<std::string, std::vector<std::string>> values;
  std::vector<std::string> params;
};

[[nodiscard]] std::vector<GroupJson> parse_groups(std::string_view text);

/// Sets the options of one group. Throws: `c10::Error` for what is missing or of another type.
class GroupReader {
 public:
  explicit GroupReader(const GroupJson& group) : group_(group) {}

  void operator()(const char* name, double& value) { value = number(name, one(name)); }
  void operator()(const char* name, bool& value);
  void operator()(const char* name, std::int64_t& value) { value = integer(name, one(name)); }
  void operator()(const char* name, std::tuple<double, double>& value);
  void operator()(const char* name, std::span<double> values);
  void operator()(const char* name, std::optional<std::int64_t>& value);
  void operator()(const char* name, std::optional<double>& value);
  void operator()(const char* name, std::optional<std::string>& value);
  /// True or false; null, or nothing, leaves `value` as it is.
  void choice(const char* name, bool& value);

  /// What Python's optimizer may do and LibTorch's does not, or the other way round. `fields`: as
  /// `GroupWriter::object` takes them; those that change results must be as they are there.
  void check_python_only(const std::string& fields) const;
  /// The same for one of them.
  void check_python_only(const std::string& name, const std::string& fields) const;

 private:
  [[nodiscard]] const std::vector<std::string>& all(const char* name) const;
  [[nodiscard]] const std::string& one(const char* name) const;
  [[nodiscard]] static double number(const char* name, const std::string& text);
  [[nodiscard]] static std::int64_t integer(const char* name, const std::string& text);

  const GroupJson& group_;
};

}  // namespace lockstep::training
