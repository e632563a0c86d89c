// SPDX-License-Identifier: BSD-3-Clause
#include "optim/lr_scheduler/state_writer.h"

#include "files/json_events.h"
#include "files/json_number.h"

namespace lockstep::optim::lr_scheduler {
namespace {

/// An array of the texts that `element` makes of the values.
template <class Values, class Element>
std::string json_array(const Values& values, const Element& element) {
  std::string json(1, '[');
  for (const auto& value : values) {
    if (json.size() > 1) json += ',';
    json += element(value);
  }
  return json + ']';
}

}  // namespace

void StateWriter::add(const char* key, const std::string& json) {
  if (!fields_.empty()) fields_ += ',';
  fields_ += files::json_string(key);
  fields_ += ':';
  fields_ += json;
}

void StateWriter::integer(const char* key, std::int64_t& value) {
  add(key, std::to_string(value));
}

void StateWriter::number(const char* key, double& value) {
  add(key, files::json_number(value));
}

void StateWriter::flag(const char* key, bool& value) {
  add(key, value ? "true" : "false");
}

void StateWriter::text(const char* key, std::string& value) {
  add(key, files::json_string(value));
}

void StateWriter::optional(const char* key, std::optional<double>& value) {
  add(key, value ? files::json_number(*value) : "null");
}

void StateWriter::numbers(const char* key, std::vector<double>& values,
                          std::optional<std::size_t> /*size*/) {
  add(key, json_array(values, [](double value) { return files::json_number(value); }));
}

void StateWriter::integers(const char* key, std::vector<std::int64_t>& values) {
  add(key, json_array(values, [](std::int64_t value) { return std::to_string(value); }));
}

void StateWriter::counts(const char* key, std::map<std::int64_t, std::int64_t>& values) {
  StateWriter inside;
  for (auto& [number, count] : values) inside.integer(std::to_string(number).c_str(), count);
  add(key, inside.object());
}

void StateWriter::objects(const char* key, std::int64_t& count, std::int64_t /*least*/,
                          std::int64_t /*most*/,
                          const std::function<void(std::size_t, StateFields&)>& visit) {
  std::string json(1, '[');
  for (std::int64_t i = 0; i < count; ++i) {
    StateWriter inside;
    visit(static_cast<std::size_t>(i), inside);
    if (i > 0) json += ',';
    json += inside.object();
  }
  add(key, json + ']');
}

}  // namespace lockstep::optim::lr_scheduler
