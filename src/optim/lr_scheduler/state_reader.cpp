// SPDX-License-Identifier: BSD-3-Clause
#include "optim/lr_scheduler/state_reader.h"

#include <c10/util/Exception.h>

#include <charconv>
#include <limits>
#include <system_error>

#include "files/bounded_view.h"
#include "optim/lr_scheduler/python_arithmetic.h"

namespace lockstep::optim::lr_scheduler {
namespace {

/// The whole text as a number; nothing where it is none.
template <class Number>
std::optional<Number> number_in(const std::string& text) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [last, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || last != end) return std::nullopt;
  return value;
}

}  // namespace

const StateValue& StateReader::at(const char* key) const {
  const auto found = object_->find(key);
  TORCH_CHECK(found != object_->end(), "the state of a ", schedule_, " has no '", key,
              "'; is it of another class?");
  return found->second;
}

const std::string& StateReader::scalar(const char* key) const {
  const auto& value = at(key);
  TORCH_CHECK(!value.is_array && value.scalars.size() == 1, "the state of a ", schedule_, ": '",
              key, "' is an array or object; expected one value");
  return value.scalars.front();
}

const std::vector<std::string>& StateReader::array(const char* key, std::size_t size) const {
  const auto& value = at(key);
  TORCH_CHECK(value.is_array && value.objects.empty(), "the state of a ", schedule_, ": '", key,
              "' is no array of values");
  TORCH_CHECK(value.scalars.size() == size, "the state of a ", schedule_, ": '", key, "' has ",
              value.scalars.size(), " values; this program's schedule has ", size);
  return value.scalars;
}

double StateReader::number_of(const char* key, const std::string& text) const {
  // JSON has no infinity; it is a text then, as Python's float() takes it.
  const auto value = number_in<double>(text.starts_with('"') ? text.substr(1) : text);
  TORCH_CHECK(value, "the state of a ", schedule_, ": '", key, "' is ", files::in_quotes(text),
              ", which is no number");
  return *value;
}

std::int64_t StateReader::integer_of(const char* key, const std::string& text) const {
  const auto value = number_in<std::int64_t>(text);
  TORCH_CHECK(value, "the state of a ", schedule_, ": '", key, "' is ", files::in_quotes(text),
              ", which is no whole number");
  check_size(schedule_.c_str(), key, *value);
  return *value;
}

void StateReader::integer(const char* key, std::int64_t& value) {
  swaps_.add(value, integer_of(key, scalar(key)));
}

void StateReader::number(const char* key, double& value) {
  swaps_.add(value, number_of(key, scalar(key)));
}

void StateReader::flag(const char* key, bool& value) {
  const auto& text = scalar(key);
  TORCH_CHECK(text == "true" || text == "false", "the state of a ", schedule_, ": '", key, "' is ",
              files::in_quotes(text), "; expected true or false");
  swaps_.add(value, text == "true");
}

void StateReader::text(const char* key, std::string& value) {
  const auto& text = scalar(key);
  TORCH_CHECK(text.starts_with('"'), "the state of a ", schedule_, ": '", key, "' is ",
              files::in_quotes(text), "; expected a text");
  swaps_.add(value, text.substr(1));
}

void StateReader::optional(const char* key, std::optional<double>& value) {
  std::optional<double> read;
  if (has(key) && scalar(key) != "null") read = number_of(key, scalar(key));
  swaps_.add(value, read);
}

void StateReader::numbers(const char* key, std::vector<double>& values,
                          std::optional<std::size_t> size) {
  std::vector<double> read;
  for (const auto& text : array(key, size.value_or(values.size()))) {
    read.push_back(number_of(key, text));
  }
  swaps_.add(values, std::move(read));
}

void StateReader::integers(const char* key, std::vector<std::int64_t>& values) {
  std::vector<std::int64_t> read;
  for (const auto& text : array(key, values.size())) read.push_back(integer_of(key, text));
  swaps_.add(values, std::move(read));
}

void StateReader::counts(const char* key, std::map<std::int64_t, std::int64_t>& values) {
  const auto& value = at(key);
  TORCH_CHECK(!value.is_array && value.objects.size() == 1, "the state of a ", schedule_, ": '",
              key, "' is no object");
  std::map<std::int64_t, std::int64_t> read;
  const StateReader inside(schedule_, value.objects.front(), swaps_);
  for (const auto& [name, count] : *value.objects.front()) {
    read[integer_of(key, name)] = inside.integer_of(key, inside.scalar(name.c_str()));
  }
  swaps_.add(values, std::move(read));
}

void StateReader::fixed(const char* key, const std::string& json) {
  if (!has(key)) return;
  const auto& text = scalar(key);
  const std::string found = text.starts_with('"') ? text + '"' : text;
  TORCH_CHECK(found == json, "the state of a ", schedule_, ": '", key, "' is ",
              files::in_quotes(found), "; this program's schedule has ", json);
}

void StateReader::objects(const char* key, std::int64_t& count, std::int64_t least,
                          std::int64_t most,
                          const std::function<void(std::size_t, StateFields&)>& visit) {
  const auto& value = at(key);
  TORCH_CHECK(value.is_array && value.scalars.empty(), "the state of a ", schedule_, ": '", key,
              "' is no array of objects");
  const auto found = static_cast<std::int64_t>(value.objects.size());
  TORCH_CHECK(found >= least && found <= most, "the state of a ", schedule_, ": '", key, "' has ",
              found, " elements; this program's schedule has ", count);
  if (least != most) swaps_.add(count, found);
  for (std::size_t i = 0; i < value.objects.size(); ++i) {
    std::string place = schedule_ + " / ";
    place += key;
    place += ' ';
    place += std::to_string(i);
    StateReader inside(std::move(place), value.objects[i], swaps_);
    visit(i, inside);
  }
}

}  // namespace lockstep::optim::lr_scheduler
