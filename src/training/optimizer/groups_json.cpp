// SPDX-License-Identifier: BSD-3-Clause
#include "training/optimizer/groups_json.h"

#include <c10/util/Exception.h>

#include <charconv>
#include <utility>

#include "files/bounded_view.h"

namespace lockstep::training {
namespace {

using files::JsonPlace;

/// The whole text as a number.
template <class Number>
Number parse(const char* name, const std::string& text, const char* what) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [last, error] = std::from_chars(text.data(), end, value);
  TORCH_CHECK(error == std::errc() && last == end, "the state of the optimizer: '", name, "' is ",
              files::in_quotes(text), ", which is no ", what);
  return value;
}

/// An array of objects, with numbers, texts and arrays of them in each.
class GroupEvents final : public files::JsonEvents {
 public:
  explicit GroupEvents(const files::JsonFail& fail) : fail_(fail) {}

  std::vector<GroupJson> take() { return std::move(groups_); }

  void on_object(const JsonPlace& place) override {
    if (!place.names.empty() || place.arrays != 1) refuse(place, "an object");
    groups_.emplace_back();
  }
  void on_array(const JsonPlace& place) override {
    if (place.names.empty() ? place.arrays > 0 : place.arrays > 0 || place.names.size() > 1) {
      refuse(place, "an array");
    }
    if (!place.names.empty() && place.names[0] != "params") {
      groups_.back().values.try_emplace(place.names[0]);
    }
  }
  void on_string(const JsonPlace& place, std::string& value) override {
    if (place.names.size() == 1 && place.names[0] == "params" && place.arrays == 1) {
      groups_.back().params.push_back(std::move(value));
    } else {
      add(place, '"' + value);
    }
  }
  void on_count(const JsonPlace& place, std::uint64_t value) override {
    add(place, std::to_string(value));
  }
  void on_other(const JsonPlace& place, const std::string& text) override { add(place, text); }

 private:
  void add(const JsonPlace& place, std::string text) {
    if (place.names.size() != 1 || place.arrays > 1 || place.names[0] == "params") {
      refuse(place, files::in_quotes(text));
    }
    groups_.back().values[place.names[0]].push_back(std::move(text));
  }

  void refuse(const JsonPlace& place, const std::string& found) const {
    fail_(place.text() + ": an array of groups with options and the names of parameters", found);
  }

  const files::JsonFail& fail_;
  std::vector<GroupJson> groups_;
};

}  // namespace

void GroupWriter::operator()(const char* name, std::span<const double> values) {
  std::string all(1, '[');
  for (const double value : values) {
    if (all.size() > 1) all += ',';
    all += files::json_number(value);
  }
  all += ']';
  add(name, all);
}

void GroupWriter::add(const char* name, const std::string& json) {
  if (!fields_.empty()) fields_ += ',';
  fields_ += files::json_string(name) + ':' + json;
}

std::string GroupWriter::object(const std::vector<std::string>& params,
                                const std::string& python_only) const {
  std::string text(1, '{');
  text += fields_;
  if (!python_only.empty()) text += ',' + python_only;
  text += ",\"params\":[";
  const char* separator = "";
  for (const auto& param : params) {
    text += separator;
    text += files::json_string(param);
    separator = ",";
  }
  return text + "]}";
}

std::vector<GroupJson> parse_groups(std::string_view text) {
  const files::JsonFail fail = [](const std::string& expected, const std::string& found) {
    TORCH_CHECK(false, "the state of the optimizer: param_groups: expected ", expected, ", found ",
                found);
  };
  if (!text.starts_with('[')) fail("an array", files::in_quotes(text.substr(0, 20)));
  GroupEvents events(fail);
  files::read_json(text, {}, events, fail);
  return events.take();
}

const std::vector<std::string>& GroupReader::all(const char* name) const {
  const auto found = group_.values.find(name);
  TORCH_CHECK(found != group_.values.end(), "the state of the optimizer: a group has no '", name,
              "'; is it of another kind of optimizer?");
  return found->second;
}

const std::string& GroupReader::one(const char* name) const {
  const auto& values = all(name);
  TORCH_CHECK(values.size() == 1, "the state of the optimizer: '", name, "' has ", values.size(),
              " values; expected one");
  return values.front();
}

double GroupReader::number(const char* name, const std::string& text) {
  return parse<double>(name, text.starts_with('"') ? text.substr(1) : text, "number");
}

std::int64_t GroupReader::integer(const char* name, const std::string& text) {
  return parse<std::int64_t>(name, text, "whole number");
}

void GroupReader::check_python_only(const std::string& fields) const {
  for (const auto* name : {"maximize", "decoupled_weight_decay"}) check_python_only(name, fields);
}

void GroupReader::check_python_only(const std::string& name, const std::string& fields) const {
  // The rest chooses between ways to compute the same.
  if (name != "maximize" && name != "decoupled_weight_decay") return;
  const auto found = group_.values.find(name);
  if (found == group_.values.end() || found->second.size() != 1) return;
  const bool is_so = found->second.front() == "true";
  std::string ours = files::json_string(name);
  ours += ":true";
  const bool is_ours = fields.find(ours) != std::string::npos;
  TORCH_CHECK(is_so == is_ours, "the state of the optimizer: '", name, "' is ",
              found->second.front(), ", as this kind of optimizer does not do it");
}

void GroupReader::operator()(const char* name, bool& value) {
  const std::string& text = one(name);
  TORCH_CHECK(text == "true" || text == "false", "the state of the optimizer: '", name, "' is ",
              files::in_quotes(text), "; expected true or false");
  value = text == "true";
}

void GroupReader::operator()(const char* name, std::tuple<double, double>& value) {
  std::array<double, 2> both{};
  (*this)(name, both);
  value = {both[0], both[1]};
}

void GroupReader::operator()(const char* name, std::span<double> values) {
  const auto& texts = all(name);
  TORCH_CHECK(texts.size() == values.size(), "the state of the optimizer: '", name, "' has ",
              texts.size(), " values; expected ", values.size() == 2 ? "two" : "three");
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = number(name, texts[i]);
}

void GroupReader::choice(const char* name, bool& value) {
  if (group_.values.find(name) != group_.values.end() && one(name) != "null") {
    (*this)(name, value);
  }
}

void GroupReader::operator()(const char* name, std::optional<double>& value) {
  const std::string& text = one(name);
  value = text == "null" ? std::nullopt : std::optional(number(name, text));
}

void GroupReader::operator()(const char* name, std::optional<std::int64_t>& value) {
  const std::string& text = one(name);
  value = text == "null" ? std::nullopt : std::optional(integer(name, text));
}

void GroupReader::operator()(const char* name, std::optional<std::string>& value) {
  const std::string& text = one(name);
  TORCH_CHECK(text == "null" || text.starts_with('"'), "the state of the optimizer: '", name,
              "' is ", files::in_quotes(text), "; expected a text or null");
  value = text == "null" ? std::nullopt : std::optional(text.substr(1));
}

}  // namespace lockstep::training
